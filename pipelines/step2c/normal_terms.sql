-- normal_term: what the fit of this tract speaks of, numbered from 0: the zero point of a visit (zero_point) or of the reference
--   catalogue (reference), the gradient of a visit over the field (gradient_x, gradient_y: mag per degree), the flat of a detector in
--   an epoch (flat; flat_10, flat_01, flat_20, flat_11, flat_02: its Chebyshev polynomials over the detector).
-- inputs: place; $order: of the polynomials
-- grain: one row per term, those of visits first
CREATE OR REPLACE TEMP TABLE normal_term AS
WITH named AS (
  SELECT DISTINCT band, if(visit < 0, 'reference', 'zero_point') AS kind, visit, NULL :: VARCHAR AS epoch, NULL :: INTEGER AS detector
  FROM place
  UNION ALL
  SELECT DISTINCT band, unnest(['gradient_x', 'gradient_y']), visit, NULL, NULL FROM place WHERE gradient
  UNION ALL
  SELECT DISTINCT band, unnest(['flat', 'flat_10', 'flat_01', 'flat_20', 'flat_11', 'flat_02'][: [1, 3, 6][$order + 1]]), NULL, epoch, detector
  FROM place WHERE visit >= 0
)
SELECT CAST(row_number() OVER (ORDER BY starts_with(kind, 'flat'), band, kind, visit, epoch, detector) - 1 AS INTEGER) AS term, *
FROM named
ORDER BY term
