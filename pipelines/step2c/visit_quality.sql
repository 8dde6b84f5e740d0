-- visit_quality: how much the brighter half of a visit's fitted observations scatters beyond its errors (mag, robust), and chi squared
--   per observation. 0.4549 is the median of chi squared with one degree of freedom.
-- inputs: residual, block
-- grain: one row per visit (the reference catalogues among them)
WITH seen AS (
  SELECT b.visit, b.band, r.variance, r.r * r.r / (1 - r.h) AS square,
         median(r.variance) OVER (PARTITION BY b.visit) AS middle
  FROM residual r
  JOIN block b USING (block)
  WHERE r.used AND r.fitted AND r.h < 0.9
)
SELECT visit, min(band) AS band, count(*) AS n,
       sqrt(greatest(0, median(square) FILTER (variance <= middle) / 0.4549 - median(variance) FILTER (variance <= middle)))
         AS excess,
       total(least(square / variance, 1e6)) / count(*) AS chi2
FROM seen
GROUP BY visit
ORDER BY visit
