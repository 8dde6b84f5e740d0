-- detectors: the detectors of the visits of a band, by the summaries of the visits.
-- inputs: preliminary_visit_summary, visit, focal_plane; $band
-- grain: one row per visit, detector, in that order
SELECT DISTINCT s.visit, s.detector, v.epoch, coalesce(p.x0, 0) AS x, coalesce(p.y0, 0) AS y
FROM preliminary_visit_summary s
JOIN visit v USING (visit)
LEFT JOIN focal_plane p USING (detector)
WHERE v.band = $band
ORDER BY s.visit, s.detector
