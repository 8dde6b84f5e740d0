-- place_terms: which terms the observations of a place have, by kind (null: none).
-- inputs: place, normal_term
-- grain: one row per place, in their order
WITH of_visit AS (
  SELECT visit, max(term) FILTER (kind IN ('zero_point', 'reference')) AS zero_point, max(term) FILTER (kind = 'gradient_x') AS gradient_x,
         max(term) FILTER (kind = 'gradient_y') AS gradient_y
  FROM normal_term WHERE visit IS NOT NULL GROUP BY visit
),
of_flat AS (
  SELECT band, epoch, detector, max(term) FILTER (kind = 'flat') AS flat, max(term) FILTER (kind = 'flat_10') AS flat_10,
         max(term) FILTER (kind = 'flat_01') AS flat_01, max(term) FILTER (kind = 'flat_20') AS flat_20,
         max(term) FILTER (kind = 'flat_11') AS flat_11, max(term) FILTER (kind = 'flat_02') AS flat_02
  FROM normal_term WHERE epoch IS NOT NULL GROUP BY band, epoch, detector
)
SELECT zero_point, gradient_x, gradient_y, flat, flat_10, flat_01, flat_20, flat_11, flat_02
FROM place
JOIN of_visit USING (visit)
LEFT JOIN of_flat USING (band, epoch, detector)
ORDER BY place
