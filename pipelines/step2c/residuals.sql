-- residual: every observation against the mean of its star under zero points: r, and h, its own share in that mean.
-- inputs: weighted, local_zero(visit, detector, zero), local_slope(visit, slope): m + zero + slope * c is calibrated
-- grain: one row per star and visit; r is null where nothing is left of the star
CREATE OR REPLACE TEMP TABLE residual AS
WITH calibrated AS MATERIALIZED (
  SELECT w.star, w.band, w.visit, w.detector, w.w, w.variance, w.fitted, w.used, w.c, w.m + coalesce(z.zero, 0) + coalesce(k.slope, 0) * w.c AS mag
  FROM weighted w
  LEFT JOIN local_zero z USING (visit, detector)
  LEFT JOIN local_slope k USING (visit)
),
mean AS (
  SELECT star, total(w) AS s, total(w * mag) AS t FROM calibrated WHERE used GROUP BY star
)
SELECT c.star, c.band, c.visit, c.detector, c.w, c.variance, c.fitted, c.used, c.c, c.mag, c.mag - t / s AS r, t / s AS mean, s,
       if(c.used, c.w / s, 0) AS h
FROM calibrated c
LEFT JOIN mean USING (star)
