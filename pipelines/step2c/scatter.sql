-- scatter: how much the brighter half of a visit's fitted observations scatters beyond its errors (mag, robust). 0.4549 is the median
--   of chi squared with one degree of freedom. Few stars tell little: the median of the visits of the band, of those under clouds and
--   of others, counts as $usual stars. Chance makes a variance of 2.333 / sqrt(n) of itself that is no scatter, and those below zero
--   cannot make up for it: what it makes is taken off (the positive part of James & Stein 1961).
-- inputs: residual, suspect(visit, clouded)
-- grain: one row per visit (the reference catalogues among them)
CREATE OR REPLACE TEMP TABLE scatter AS
WITH seen AS (
  SELECT visit, band, variance, r * r / (1 - h) AS square FROM residual WHERE used AND fitted AND h < 0.9
),
middle AS (
  SELECT visit, median(variance) AS middle FROM seen GROUP BY visit
),
measured AS (
  SELECT visit, any_value(band) AS band, count(*) AS n,
         median(square) / 0.4549 - median(variance) AS excess, median(variance) AS typical
  FROM seen JOIN middle USING (visit)
  WHERE variance <= middle
  GROUP BY visit
)
SELECT visit, band, n, sqrt(greatest(drawn - noise * noise / greatest(drawn, 1e-30), 0)) AS excess
FROM (
  SELECT visit, band, n, (n * excess + $usual * usual) / (n + $usual) AS drawn, 2.333 * typical * sqrt(n) / (n + $usual) AS noise
  FROM (
    SELECT m.*, median(excess) OVER (PARTITION BY band, visit < 0, coalesce(q.clouded, false)) AS usual
    FROM measured m
    LEFT JOIN suspect q USING (visit)
  )
)
