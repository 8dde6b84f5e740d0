-- local_zero: a first idea of the zero point of each (visit, detector) beyond its preliminary one, from medians: every star's own, then
--   the detector's residuals from it, drawn to those of its visit and its flat where it has few stars.
-- inputs: observation, visit, local_zero (of the last pass); $few: stars that count as much as the visit
-- grain: one row per visit, detector
CREATE OR REPLACE TEMP TABLE local_zero AS
WITH calibrated AS (
  SELECT o.star, o.visit, o.detector, o.m + coalesce(z.zero, 0) AS mag, coalesce(z.zero, 0) AS zero
  FROM observation o
  LEFT JOIN local_zero z USING (visit, detector)
),
centre AS (
  SELECT star, median(mag) AS centre FROM calibrated GROUP BY star
),
residual AS (
  SELECT c.visit, c.detector, c.zero, c.mag - s.centre AS r FROM calibrated c JOIN centre s USING (star)
),
of_visit AS (
  SELECT visit, median(r) AS r FROM residual GROUP BY visit
),
of_block AS (
  SELECT visit, detector, any_value(zero) AS zero, median(r) AS r, count(*) AS n FROM residual GROUP BY visit, detector
),
beyond AS (
  SELECT b.visit, b.detector, s.band, s.epoch, b.zero, b.n, v.r AS of_visit, b.r - v.r AS r
  FROM of_block b
  JOIN of_visit v USING (visit)
  LEFT JOIN visit s USING (visit)
),
of_flat AS (
  SELECT band, epoch, detector, total(n * r) / (sum(n) + $few) AS r FROM beyond WHERE band IS NOT NULL GROUP BY band, epoch, detector
)
SELECT b.visit, b.detector, b.zero - (b.of_visit + coalesce(f.r, 0) + b.n / (b.n + $few) * (b.r - coalesce(f.r, 0))) AS zero
FROM beyond b
LEFT JOIN of_flat f ON f.band = b.band AND f.epoch = b.epoch AND f.detector = b.detector
