-- associations: the good detections of the isolated stars.
-- inputs: isolated(star, tract, skymap, isolatedStarId), member(star, sourceId, visit, good), single_visit_star
-- grain: one row per isolatedStarId, sourceId, in that order
SELECT
  i.tract, i.skymap, i.isolatedStarId, s.sourceId, s.visit, s.detector, s.instrument, s.band, s.physical_filter,
  s.x, s.y, s.instFlux, s.instFluxErr
FROM isolated i
JOIN member m USING (star)
JOIN single_visit_star s USING (sourceId)
WHERE m.good
ORDER BY i.isolatedStarId, s.sourceId
