-- photo_calibs: the product, one zero point per visit and detector.
-- inputs: visit, block, cloudy, solved_block(block, zero, error, stars, absolute), visit_chi2(visit, chi2); $min_stars
-- grain: one row per visit, detector, in that order
SELECT
  v.day_obs, v.instrument, v.band, v.physical_filter, b.visit, b.detector,
  v.prior + s.zero AS zeroPoint,
  s.error AS zeroPointErr,
  CAST(s.stars AS INTEGER) AS nStar,
  q.chi2,
  -- a visit without a star has not been shown to be clear
  c.visit IS NULL AND q.visit IS NOT NULL AS photometric,
  s.stars < $min_stars AS few_stars,
  s.absolute
FROM block b
JOIN visit v USING (visit)
JOIN solved_block s USING (block)
LEFT JOIN cloudy c USING (visit)
LEFT JOIN visit_chi2 q USING (visit)
ORDER BY b.visit, b.detector
