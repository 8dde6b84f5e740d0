-- residual: every observation against the mean of its star under the solution: r, and h, its own share in that mean.
-- inputs: weighted, block_value(block, zero, slope): m + zero + slope * c is calibrated
-- grain: one row per star and block; r is null where nothing is left of the star
CREATE OR REPLACE TEMP TABLE residual AS
WITH calibrated AS (
  SELECT w.*, w.m + v.zero + v.slope * w.c AS mag
  FROM weighted w
  JOIN block_value v USING (block)
),
mean AS (
  SELECT star, total(w) AS s, total(w * mag) AS t
  FROM calibrated
  WHERE used
  GROUP BY star
)
SELECT c.star, c.block, c.w, c.variance, c.fitted, c.used, c.mag, c.mag - t / s AS r, t / s AS mean, s, if(c.used, c.w / s, 0) AS h
FROM calibrated c
LEFT JOIN mean USING (star)
