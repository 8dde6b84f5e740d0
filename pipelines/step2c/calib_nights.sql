-- calib_nights: zero point of one second at airmass 1, in the mean of its visits, extinction and drift of each night. A night without a photometric visit gives
--   the median of its visits under the extinction of the filter, with the error of the gauge. fitted: the error of the extinction
--   fell below half of its prior's.
-- inputs: seen_visit, solved_visit, solved_unknown(band, kind, day_obs, value, error), solved_drift(band, day_obs, value, error, prior); $extinction, $colour, $water: their errors before
--   the fit, $gauge
-- grain: one row per instrument, band, day_obs
WITH visits AS (
  SELECT v.instrument, v.band, v.day_obs, min(v.extinction) AS extinction, count(*) AS nVisit,
         count(*) FILTER (s.photometric) AS nPhotometric,
         median(v.nominal + s.zero - v.exposure + v.extinction * (coalesce(v.airmass, 1) - 1)) AS zeroPoint
  FROM seen_visit v
  JOIN solved_visit s USING (visit)
  GROUP BY v.instrument, v.band, v.day_obs
)
SELECT
  v.instrument, v.band, CAST(v.day_obs AS INTEGER) AS day_obs,
  coalesce(n.value, v.zeroPoint) AS zeroPoint,
  coalesce(n.error, $gauge) AS zeroPointErr,
  coalesce(k.value, v.extinction) AS extinction,
  coalesce(k.error, $extinction) AS extinctionErr,
  $extinction :: DOUBLE AS extinctionPrior,
  d.value AS drift,
  d.error AS driftErr,
  d.prior AS driftPrior,
  c.value AS colour_term,
  c.error AS colour_termErr,
  if(c.value IS NULL, NULL, $colour :: DOUBLE) AS colour_termPrior,
  w.value AS water_term,
  w.error AS water_termErr,
  if(w.value IS NULL, NULL, $water :: DOUBLE) AS water_termPrior,
  coalesce(k.error < 0.5 * $extinction, false) AS fitted,
  CAST(v.nVisit AS INTEGER) AS nVisit,
  CAST(v.nPhotometric AS INTEGER) AS nPhotometric
FROM visits v
LEFT JOIN solved_unknown n ON n.kind = 'night' AND n.band = v.band AND n.day_obs = v.day_obs
LEFT JOIN solved_unknown k ON k.kind = 'extinction' AND k.band = v.band AND k.day_obs = v.day_obs
LEFT JOIN solved_drift d ON d.band = v.band AND d.day_obs = v.day_obs
LEFT JOIN solved_unknown c ON c.kind = 'colour' AND c.band = v.band AND c.day_obs = v.day_obs
LEFT JOIN solved_unknown w ON w.kind = 'water' AND w.band = v.band AND w.day_obs = v.day_obs
ORDER BY v.instrument, v.band, v.day_obs
