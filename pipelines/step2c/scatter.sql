-- scatter: how much the brighter half of a visit's fitted observations scatters beyond its errors (mag, robust). 0.4549 is the median
--   of chi squared with one degree of freedom. Few stars tell little: the median of the visits of the band counts as $usual stars.
-- inputs: residual
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
         median(square) / 0.4549 - median(variance) AS excess
  FROM seen JOIN middle USING (visit)
  WHERE variance <= middle
  GROUP BY visit
)
SELECT visit, band, n, sqrt(greatest((n * excess + $usual * usual) / (n + $usual), 0)) AS excess
FROM (SELECT *, median(excess) OVER (PARTITION BY band, visit < 0) AS usual FROM measured)
