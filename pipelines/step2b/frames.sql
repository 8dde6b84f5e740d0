-- frames: the (visit, detector) pairs that have sources in the tract.
-- inputs: source (as read), preliminary_visit_summary
-- grain: one row per visit, detector, in that order
SELECT d.visit, d.detector, d.instrument, d.band, d.physical_filter, d.mjd_mid, d.absolute, d.wcs
FROM preliminary_visit_summary d
SEMI JOIN source s USING (visit, detector)
ORDER BY d.visit, d.detector
