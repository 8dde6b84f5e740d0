-- standard_stars: calibrated mean magnitudes, in the natural system of each filter at the reference airmass.
-- inputs: residual (of the final zero points, without the reference catalogue), star
-- grain: one row per isolatedStarId, band, in that order
SELECT
  s.tract, s.skymap, s.isolatedStarId, s.coord_ra, s.coord_dec, s.band,
  max(r.mean) AS mag,
  1 / sqrt(max(r.s)) AS magErr,
  CAST(count(*) AS INTEGER) AS nobs,
  if(count(*) > 1, total(least(r.w * r.r * r.r, 1e6)) / (count(*) - 1), NULL) AS chi2,
  s.reserved
FROM residual r
JOIN star s USING (star)
WHERE r.used
GROUP BY ALL
ORDER BY s.isolatedStarId, s.band
