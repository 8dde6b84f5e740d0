-- sources: detections whose positions can be compared between visits; `good` are those fit for calibration.
--   Cosmic rays and sources that an edge cuts are left out: they must not count as neighbours.
-- inputs: single_visit_star, preliminary_visit_summary; $min_snr, $max_extendedness
-- grain: one row per source, in the order of sourceId
SELECT
  s.sourceId,
  s.visit,
  s.detector,
  s.x,
  s.y,
  s.coord_ra,
  s.coord_dec,
  s.instFlux,
  -- per coordinate, pixels squared; a centroid without an error is taken to be as good as its signal to noise
  CAST(coalesce((s.xErr * s.xErr + s.yErr * s.yErr) / 2, pow(s.instFluxErr / s.instFlux, 2)) AS DOUBLE) AS variance,
  coalesce(
    NOT s.flag_bad AND coalesce(s.extendedness, 0) <= $max_extendedness
    AND isfinite(s.instFlux) AND isfinite(s.instFluxErr) AND s.instFlux > 0 AND s.instFluxErr > 0
    AND s.instFlux >= $min_snr * s.instFluxErr,
    false) AS good
FROM single_visit_star s
SEMI JOIN preliminary_visit_summary d USING (visit, detector)
WHERE NOT s.flag_cosmic AND NOT s.flag_edge
  AND isfinite(s.x) AND isfinite(s.y) AND isfinite(s.coord_ra) AND isfinite(s.coord_dec)
ORDER BY s.sourceId
