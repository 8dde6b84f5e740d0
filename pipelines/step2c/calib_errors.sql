-- calib_errors: what the inverse says of each detector of a visit. structure: variance of a detector by itself that its weight allowed
--   for under clouds.
-- inputs: solved_detector, seen_visit, suspect(visit, clouded); $structure: mag
-- grain: one row per instrument, visit, detector
SELECT v.instrument, v.band, d.visit, CAST(d.detector AS INTEGER) AS detector, d.variance, d.ofVisit, d.ofFlat, d.common,
       if(coalesce(s.clouded, false), $structure * $structure, 0) :: DOUBLE AS structure
FROM solved_detector d
JOIN seen_visit v USING (visit)
LEFT JOIN suspect s USING (visit)
ORDER BY d.visit, d.detector
