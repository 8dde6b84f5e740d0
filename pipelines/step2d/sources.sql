-- sources: the visit's detections in nJy and final coordinates.
-- inputs: position(sourceId, coord_ra, coord_dec), single_visit_star, calibration (as final_calibration)
-- grain: one row per sourceId, in that order
SELECT
  s.day_obs, s.instrument, s.band, s.physical_filter, s.visit, s.detector, s.sourceId,
  p.coord_ra, p.coord_dec, s.x, s.y,
  -- AB magnitude 31.4 is 1 nJy
  s.instFlux * pow(10, 0.4 * (31.4 - c.zeroPoint)) AS psfFlux,
  s.instFluxErr * pow(10, 0.4 * (31.4 - c.zeroPoint)) AS psfFluxErr,
  s.apFlux * pow(10, 0.4 * (31.4 - c.zeroPoint)) AS apFlux,
  s.apFluxErr * pow(10, 0.4 * (31.4 - c.zeroPoint)) AS apFluxErr,
  s.extendedness,
  s.flag_bad
FROM single_visit_star s
JOIN calibration c USING (visit, detector)
JOIN position p USING (sourceId)
ORDER BY s.sourceId
