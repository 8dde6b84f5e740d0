-- visit_detector_tables: what is asked of the detectors of a visit most often.
-- inputs: visit_summary
-- grain: one row per visit, detector
SELECT
  day_obs, instrument, band, physical_filter, visit, detector, mjd_mid AS expMidptMJD, ra, dec,
  ra0, dec0, ra1, dec1, ra2, dec2, ra3, dec3,
  zeroPoint, zeroPointErr, psfFwhm, skyBg, skyNoise, magLim, photometric
FROM visit_summary
ORDER BY visit, detector
