-- block_residuals: what all tracts say of a detector of a visit.
-- inputs: preliminary_visit_summary, calib_visit, calib_flat, calib_error, calib_residual, focal_plane
-- grain: one row per visit, detector; in the order of visit and detector
WITH merged AS (
  SELECT visit, detector, sum(nStar) AS stars, total(weight) AS weight, total(weight * residual) AS wr, total(chi2) AS chi2,
         total(weight * others) AS wo
  FROM calib_residual GROUP BY visit, detector
),
known AS (
  SELECT visit, detector FROM preliminary_visit_summary SEMI JOIN calib_visit USING (visit)
  UNION
  SELECT visit, detector FROM merged SEMI JOIN calib_visit USING (visit)
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
  coalesce(m.stars, 0) AS stars,
  coalesce(m.weight, 0) AS weight,
  coalesce(m.wr / greatest(m.weight, 1e-9), 0) AS g,
  coalesce(m.wo / greatest(m.weight, 1e-9), 0) AS others,
  sum(coalesce(m.chi2, 0)) OVER (PARTITION BY v.visit ORDER BY k.detector ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
    / nullif(sum(coalesce(m.stars, 0)) OVER (PARTITION BY v.visit), 0) AS chi2
FROM known k
JOIN calib_visit v USING (visit)
LEFT JOIN calib_flat f ON f.band = v.band AND f.epoch = v.epoch AND f.detector = k.detector
LEFT JOIN focal_plane p ON p.detector = k.detector
LEFT JOIN calib_error e ON e.visit = k.visit AND e.detector = k.detector
LEFT JOIN merged m ON m.visit = k.visit AND m.detector = k.detector
ORDER BY v.visit, k.detector
