-- footprint: every (visit, detector, tract, patch) that a site processes, with the visit's implied dimensions.
-- inputs: visit_detector_patch, visit, tracts(tract): the tracts the site processes; $instrument, $skymap
-- grain: one row per instrument, visit, detector, skymap, tract, patch
SELECT o.instrument, o.visit AS exposure, o.visit, o.detector, v.physical_filter, v.band, v.day_obs,
       o.skymap, o.tract, o.patch
FROM visit_detector_patch o
JOIN visit v USING (instrument, visit)
SEMI JOIN tracts USING (tract)
WHERE o.instrument = $instrument AND o.skymap = $skymap
