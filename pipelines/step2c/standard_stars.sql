-- standard_stars: calibrated mean magnitudes from the star's own observations, in the natural system of each filter at the
--   reference airmass.
-- inputs: residual (of the final zero points), star, block
-- grain: one row per isolatedStarId, band, in that order
WITH own AS (
  SELECT r.star, r.mag, r.w FROM residual r JOIN block b USING (block) WHERE r.used AND NOT b.reference
),
mean AS (
  SELECT star, total(w) AS s, total(w * mag) / total(w) AS mag, count(*) AS nobs FROM own GROUP BY star
),
spread AS (
  SELECT star, total(least(own.w * pow(own.mag - mean.mag, 2), 1e6)) AS chi2 FROM own JOIN mean USING (star) GROUP BY star
)
SELECT
  s.tract, s.skymap, s.isolatedStarId, s.coord_ra, s.coord_dec, s.band,
  m.mag,
  1 / sqrt(m.s) AS magErr,
  CAST(m.nobs AS INTEGER) AS nobs,
  if(m.nobs > 1, c.chi2 / (m.nobs - 1), NULL) AS chi2,
  s.reserved
FROM mean m
JOIN spread c USING (star)
JOIN star s USING (star)
ORDER BY s.isolatedStarId, s.band
