-- frames: final and true WCS of every (visit, detector), with what else truth and calibration know of it.
-- inputs: visit_summary, truth_wcs, truth_photo_calib, detector
-- grain: one row per visit and detector (sites that share a visit have the same row: the first one's)
SELECT
    s.visit, s.detector, s.band, s.mjd_mid, s.wcs, s.wcs_source, t.wcs AS true_wcs, p.zeroPoint AS true_zero_point,
    s.psfSigma, s.skyNoise, d.width, d.height
FROM (FROM visit_summary QUALIFY row_number() OVER (PARTITION BY visit, detector ORDER BY site) = 1) s
JOIN truth_wcs t USING (visit, detector)
JOIN truth_photo_calib p USING (visit, detector)
JOIN (SELECT DISTINCT instrument, detector, width, height FROM detector) d
    ON d.instrument = s.instrument AND d.detector = s.detector
ORDER BY s.visit, s.detector
