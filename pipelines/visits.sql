-- visits: every detector of every visit that touches the site's footprint (whole visits, so that a visit's result is the
-- same at every site), with the visit's implied dimensions.
-- inputs: footprint, visit_detector_region, visit; $instrument
-- grain: one row per instrument, visit, detector
SELECT r.instrument, r.visit AS exposure, r.visit, r.detector, v.physical_filter, v.band, v.day_obs
FROM visit_detector_region r
JOIN visit v USING (instrument, visit)
SEMI JOIN footprint f ON f.instrument = r.instrument AND f.visit = r.visit
WHERE r.instrument = $instrument
