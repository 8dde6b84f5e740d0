-- standard_stars: calibrated mean magnitudes from the star's own observations, in the natural system of each filter at the
--   reference airmass. magStd: their scatter.
-- inputs: residual, star
-- grain: one row per isolatedStarId, band, in that order
WITH mean AS (
  SELECT star, total(w) AS s, total(w * mag) / total(w) AS mag, count(*) AS nobs,
         total(least(w * r * r, 1e6)) AS chi2, total(r * r) AS square
  FROM residual
  WHERE used
  GROUP BY star
)
SELECT
  s.tract, s.skymap, s.isolatedStarId, s.coord_ra, s.coord_dec, s.band,
  m.mag,
  1 / sqrt(m.s) AS magErr,
  if(m.nobs > 1, sqrt(m.square / (m.nobs - 1)), NULL) AS magStd,
  CAST(m.nobs AS INTEGER) AS nobs,
  if(m.nobs > 1, m.chi2 / (m.nobs - 1), NULL) AS chi2,
  s.reserved
FROM mean m
JOIN star s USING (star)
ORDER BY s.isolatedStarId, s.band
