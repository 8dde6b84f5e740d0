-- night_spread: how far photometric visits scatter about the zero point and extinction of their night, where there are enough.
-- inputs: visit, cloudy, unknown, solved(number, value)
-- grain: one row per band
WITH of_visit AS (SELECT u.visit, s.value FROM unknown u JOIN solved s USING (number) WHERE u.kind = 'zero_point'),
of_night AS (
  SELECT u.band, u.day_obs, max(s.value) FILTER (u.kind = 'night') AS night,
         max(s.value) FILTER (u.kind = 'extinction') AS extinction
  FROM unknown u JOIN solved s USING (number)
  WHERE u.kind IN ('night', 'extinction')
  GROUP BY u.band, u.day_obs
)
SELECT v.band, sqrt(total(pow(z.value + v.prior - v.exposure - n.night + n.extinction * (v.airmass - 1), 2))
                    / (count(*) - 2 * count(DISTINCT v.day_obs))) AS spread
FROM visit v
ANTI JOIN cloudy c USING (visit)
JOIN of_visit z USING (visit)
JOIN of_night n USING (band, day_obs)
WHERE v.airmass IS NOT NULL
GROUP BY v.band
HAVING count(*) - 2 * count(DISTINCT v.day_obs) >= 3
ORDER BY v.band
