-- calib_nights: zero point of one second at airmass 1, and extinction, of each night. A night without a photometric visit gives
--   the median of its visits under the extinction of the filter, with their scatter (at least $gauge) as the error.
-- inputs: visit, cloudy, unknown, solved(number, value, error), visit_chi2; $prior: error of extinction before the fit, $gauge
-- grain: one row per instrument, band, day_obs
WITH term AS (
  SELECT u.kind, u.band, u.day_obs, u.visit, s.value, s.error FROM unknown u JOIN solved s USING (number)
),
visits AS (
  SELECT v.instrument, v.band, v.day_obs, min(v.extinction) AS extinction, count(*) AS nVisit,
         count(*) FILTER (c.visit IS NULL AND q.visit IS NOT NULL) AS nPhotometric,
         median(v.prior + z.value - v.exposure + v.extinction * (coalesce(v.airmass, 1) - 1)) AS zeroPoint
  FROM visit v
  JOIN term z ON z.kind = 'zero_point' AND z.visit = v.visit
  LEFT JOIN cloudy c ON c.visit = v.visit
  LEFT JOIN visit_chi2 q ON q.visit = v.visit
  GROUP BY v.instrument, v.band, v.day_obs
)
SELECT
  v.instrument, v.band, v.day_obs,
  coalesce(n.value, v.zeroPoint) AS zeroPoint,
  coalesce(n.error, $gauge) AS zeroPointErr,
  coalesce(k.value, v.extinction) AS extinction,
  coalesce(k.error, $prior) AS extinctionErr,
  c.value AS colour_term,
  c.error AS colour_termErr,
  coalesce(k.error < 0.5 * $prior, false) AS fitted,
  CAST(v.nVisit AS INTEGER) AS nVisit,
  CAST(v.nPhotometric AS INTEGER) AS nPhotometric
FROM visits v
LEFT JOIN term n ON n.kind = 'night' AND n.band = v.band AND n.day_obs = v.day_obs
LEFT JOIN term k ON k.kind = 'extinction' AND k.band = v.band AND k.day_obs = v.day_obs
LEFT JOIN term c ON c.kind = 'colour' AND c.band = v.band AND c.day_obs = v.day_obs
ORDER BY v.instrument, v.band, v.day_obs
