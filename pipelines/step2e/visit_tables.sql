-- visit_tables: one row about a visit; its centre is the mean direction of the detector centres (RA may wrap).
-- inputs: visit_summary
-- grain: one row per visit
WITH centred AS (
  SELECT visit,
         sum(cos(radians(dec)) * cos(radians(ra)) ORDER BY detector) AS x,
         sum(cos(radians(dec)) * sin(radians(ra)) ORDER BY detector) AS y,
         sum(sin(radians(dec)) ORDER BY detector) AS z
  FROM visit_summary
  GROUP BY visit
)
SELECT
  min(s.day_obs) AS day_obs,
  min(s.instrument) AS instrument,
  min(s.band) AS band,
  min(s.physical_filter) AS physical_filter,
  s.visit,
  min(s.mjd_mid) - min(s.exposure_time) / 172800 AS obsStartMJD,
  min(s.mjd_mid) AS expMidptMJD,
  min(s.exposure_time) AS expTime,
  (degrees(atan2(min(c.y), min(c.x))) + 360) % 360 AS ra,
  degrees(atan2(min(c.z), sqrt(pow(min(c.x), 2) + pow(min(c.y), 2)))) AS dec,
  min(s.airmass) AS airmass,
  median(s.zeroPoint) AS zeroPoint,
  stddev_samp(s.zeroPoint ORDER BY s.detector) AS zeroPointScatter,
  median(s.psfFwhm) AS psfFwhm,
  median(s.magLim) AS magLim,
  bool_and(s.photometric) AS photometric,
  CAST(count(*) AS INTEGER) AS nDetector
FROM visit_summary s
JOIN centred c USING (visit)
GROUP BY s.visit
ORDER BY s.visit
