-- calib_visits: the global solution for each visit. zeroPoint is at the middle of the field, for a flat of zero.
-- inputs: seen_visit, solved_visit
-- grain: one row per visit
SELECT
  v.day_obs, v.instrument, v.band, v.physical_filter, v.visit, v.epoch, v.airmass, v.mjd,
  v.nominal + s.zero AS zeroPoint,
  s.error AS zeroPointErr,
  s.gradient_x, s.gradient_y, s.gradient_error AS gradientErr,
  s.slope AS colour_slope,
  s.level,
  CAST(coalesce(v.stars, 0) AS BIGINT) AS nStar,
  v.excess AS scatter,
  s.photometric,
  v.stars IS NULL AS extrapolated,
  CAST(s.component AS INTEGER) AS component,
  s.absolute
FROM seen_visit v
JOIN solved_visit s USING (visit)
ORDER BY v.visit
