-- preliminary_visit_summary: what step 1 learnt of each detector of a visit, beside when and how the visit was taken,
-- and the medians that tell a detector out of line.
-- inputs: preliminary_detector_summary (rows of one visit), visit (its dimension record)
-- grain: one row per visit and detector; partition: site, day_obs (the site column is added where the rows are written)
SELECT
    d.day_obs, d.instrument, d.band, d.physical_filter, d.visit, d.detector,
    v.mjd_mid, v.exposure_time, v.airmass,
    d.psfSigma, d.psfFwhm, d.psfStarDeltaE1Median, d.nPsfStar, d.skyBg, d.skyNoise,
    d.zeroPoint, d.zeroPointErr, d.nPhotometricMatch, d.nAstrometricMatch, d.astromOffsetStd, d.absolute, d.magLim,
    d.wcs, d.ra, d.dec, d.nSource,
    median(d.zeroPoint) OVER visit_rows AS visit_zeroPoint,
    median(d.psfFwhm) OVER visit_rows AS visit_psfFwhm,
    (count(*) OVER visit_rows)::INTEGER AS nDetector
FROM preliminary_detector_summary d
JOIN visit v USING (instrument, visit)
WINDOW visit_rows AS (PARTITION BY d.instrument, d.visit)
ORDER BY d.visit, d.detector;
