-- block_residuals: what the solution and all tracts say of a detector of a visit (number: row of judged_visit).
-- inputs: judged_visit, calib_flat, calib_error, calib_residual, focal_plane
-- grain: one row per visit, detector; in that order
WITH merged AS (
  SELECT visit, detector, sum(nStar) AS stars, total(weight) AS weight, total(weight * residual) AS wr, sum(ownWeight) AS ownWeight,
         total(weight * others) AS wo, total(weight * clouded) AS wc
  FROM calib_residual GROUP BY visit, detector
)
SELECT
  v.number, detector,
  v.zeroPoint + coalesce(f."offset", 0) + coalesce(v.gradient_x * p.x0 + v.gradient_y * p.y0, 0) AS zeroPoint,
  CAST(coalesce(
    e.variance,
    v.zeroPointErr * v.zeroPointErr + coalesce(v.gradientErr * v.gradientErr * (p.x0 * p.x0 + p.y0 * p.y0), 0)
      + coalesce(f.offsetErr * f.offsetErr, 0)
  ) AS FLOAT) AS variance,
  coalesce(e.ofVisit, 0) AS ofVisit, coalesce(e.ofFlat, 0) AS ofFlat, coalesce(e.common, 0) AS common, coalesce(e.structure, 0) AS structure,
  CAST(coalesce(k.stars, 0) AS INTEGER) AS stars,
  coalesce(k.weight, 0) AS weight,
  coalesce(k.wr / greatest(k.weight, 1e-9), 0) AS g,
  CAST(coalesce(k.ownWeight, 0) AS FLOAT) AS ownWeight,
  CAST(coalesce(k.wo / greatest(k.weight, 1e-9), 0) AS FLOAT) AS others,
  CAST(coalesce(k.wc / greatest(k.weight, 1e-9), 0) AS FLOAT) AS clouded
FROM calib_error e
FULL JOIN merged k USING (visit, detector)
JOIN judged_visit v USING (visit)
LEFT JOIN calib_flat f ON f.band = v.band AND f.epoch = v.epoch AND f.detector = coalesce(e.detector, k.detector)
LEFT JOIN focal_plane p ON p.detector = coalesce(e.detector, k.detector)
ORDER BY number, detector
