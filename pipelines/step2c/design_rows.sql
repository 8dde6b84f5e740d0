-- design_rows: each observation with its terms, by kind (null: none), in the order that sums are made in.
-- inputs: fit, normal_term, visit
-- grain: one row per star and visit
WITH seen AS (
  SELECT DISTINCT f.band, f.visit, f.detector, f.gradient, v.epoch FROM fit f LEFT JOIN visit v USING (visit)
),
of_visit AS (
  SELECT visit, max(term) FILTER (kind IN ('zero_point', 'reference')) AS zero_point, max(term) FILTER (kind = 'gradient_x') AS gradient_x,
         max(term) FILTER (kind = 'gradient_y') AS gradient_y
  FROM normal_term WHERE visit IS NOT NULL GROUP BY visit
),
of_flat AS (
  SELECT band, epoch, detector, max(term) FILTER (kind = 'flat') AS flat, max(term) FILTER (kind = 'flat_10') AS flat_10,
         max(term) FILTER (kind = 'flat_01') AS flat_01, max(term) FILTER (kind = 'flat_20') AS flat_20,
         max(term) FILTER (kind = 'flat_11') AS flat_11, max(term) FILTER (kind = 'flat_02') AS flat_02
  FROM normal_term WHERE epoch IS NOT NULL GROUP BY band, epoch, detector
),
place AS (
  SELECT s.visit, s.detector, zero_point, gradient_x, gradient_y, flat, flat_10, flat_01, flat_20, flat_11, flat_02
  FROM seen s
  JOIN of_visit USING (visit)
  LEFT JOIN of_flat USING (band, epoch, detector)
)
SELECT f.star, f.w, f.s, f.c, f.d, f.xi, f.eta, f.px, f.py, p.* EXCLUDE (visit, detector)
FROM fit f
JOIN place p ON p.visit = f.visit AND p.detector = f.detector
ORDER BY f.star, f.visit
