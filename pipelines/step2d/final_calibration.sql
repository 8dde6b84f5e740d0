-- final_calibration: for each detector of a visit the astrometric and photometric solutions that hold.
--   Astrometry: of the tracts' fits that have it, one tied to the sky before one that is not, then the one with most stars, then
--   the lowest tract. Photometry: the global solution, where it saw any star of the visit. What has none stays preliminary.
-- inputs: preliminary_visit_summary, photo_calib, visit_wcs; $visit
-- grain: one row per visit, detector, in that order
WITH fit AS (
  SELECT *
  FROM visit_wcs
  WHERE visit = $visit
  QUALIFY row_number() OVER (PARTITION BY detector ORDER BY absolute DESC, nStar DESC, tract) = 1
),
solved AS (
  SELECT * FROM photo_calib WHERE visit = $visit AND (SELECT sum(nStar) FROM photo_calib WHERE visit = $visit) > 0
)
SELECT
  d.day_obs, d.instrument, d.band, d.physical_filter, d.visit, d.detector, d.mjd_mid, d.exposure_time, d.airmass,
  d.psfSigma, d.psfFwhm, d.skyBg, d.skyNoise,
  coalesce(p.zeroPoint, d.zeroPoint) AS zeroPoint,
  if(p.visit IS NULL, d.zeroPointErr, p.zeroPointErr) AS zeroPointErr,
  if(p.visit IS NULL, 'preliminary', 'global') AS photo_source,
  coalesce(p.photometric, false) AS photometric,
  coalesce(f.wcs, d.wcs) AS wcs,
  if(f.visit IS NULL, 'preliminary', 'fit') AS wcs_source,
  f.tract AS wcs_tract,
  if(f.visit IS NULL, d.astromOffsetStd, f.rms) AS astromOffsetStd,
  coalesce(f.absolute, d.absolute) AND coalesce(p.absolute, d.absolute) AS absolute,
  -- five sigma of a point source in background noise, where step 1 had no zero point to give the limit itself
  coalesce(d.magLim + p.zeroPoint - d.zeroPoint, if(p.visit IS NULL, d.magLim, NULL),
           p.zeroPoint - 2.5 * log10(5 * d.skyNoise * sqrt(4 * pi()) * d.psfSigma)) AS magLim
FROM preliminary_visit_summary d
LEFT JOIN solved p ON p.detector = d.detector
LEFT JOIN fit f ON f.detector = d.detector
WHERE d.visit = $visit
ORDER BY d.visit, d.detector
