-- block_residuals: what all tracts say of a detector of a visit.
-- inputs: preliminary_visit_summary, calib_visit, calib_flat, calib_error, calib_residual, focal_plane
-- grain: one row per visit, detector; in the order of visit and detector
WITH merged AS (
  SELECT visit, detector, sum(nStar) AS stars, total(weight) AS weight, total(weight * residual) AS wr, total(chi2) AS chi2,
         sum(ownWeight) AS ownWeight, total(weight * others) AS wo, total(weight * clouded) AS wc
  FROM calib_residual GROUP BY visit, detector
),
known AS (
  FROM (SELECT DISTINCT visit, detector FROM preliminary_visit_summary) FULL JOIN merged USING (visit, detector)
),
of_visit AS (
  SELECT visit, total(chi2) / sum(stars) AS chi2 FROM merged GROUP BY visit
)
SELECT
  v.day_obs, v.instrument, v.band, v.physical_filter, v.visit, k.detector, v.photometric, v.extrapolated, v.absolute,
  v.zeroPoint + coalesce(f."offset", 0) + coalesce(v.gradient_x * p.x0 + v.gradient_y * p.y0, 0) AS zeroPoint,
  coalesce(
    e.variance,
    v.zeroPointErr * v.zeroPointErr + coalesce(v.gradientErr * v.gradientErr * (p.x0 * p.x0 + p.y0 * p.y0), 0)
      + coalesce(f.offsetErr * f.offsetErr, 0)
  ) AS variance,
  coalesce(e.ofVisit, 0) AS ofVisit, coalesce(e.ofFlat, 0) AS ofFlat, coalesce(e.common, 0) AS common, coalesce(e.structure, 0) AS structure,
  v.epoch,
  coalesce(k.stars, 0) AS stars,
  coalesce(k.weight, 0) AS weight,
  coalesce(k.wr / greatest(k.weight, 1e-9), 0) AS g,
  coalesce(k.ownWeight, 0) AS ownWeight,
  coalesce(k.wo / greatest(k.weight, 1e-9), 0) AS others,
  coalesce(k.wc / greatest(k.weight, 1e-9), 0) AS clouded,
  x.chi2
FROM known k
JOIN calib_visit v USING (visit)
LEFT JOIN calib_flat f ON f.band = v.band AND f.epoch = v.epoch AND f.detector = k.detector
LEFT JOIN focal_plane p ON p.detector = k.detector
LEFT JOIN calib_error e ON e.visit = k.visit AND e.detector = k.detector
LEFT JOIN of_visit x ON x.visit = k.visit
ORDER BY v.visit, k.detector
