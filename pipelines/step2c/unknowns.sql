-- unknown: what the fit solves for, numbered from 0.
--   zero_point of a visit, beyond its prior | flat of a detector in an epoch, of zero mean | offset of a detector in a visit that
--   is not photometric | colour: extinction per airmass and magnitude of colour, of a night | reference_colour: natural minus
--   catalogue magnitude per magnitude of colour, of a band | night: zero point of one second at airmass 1 | extinction of a night
-- inputs: block, visit, cloudy(visit, spread); $colours: whether colours are known
-- grain: one row per unknown
CREATE OR REPLACE TEMP TABLE unknown AS
WITH seen AS (
  SELECT b.band, b.visit, b.detector, v.day_obs, v.epoch, v.airmass IS NOT NULL AS aired, c.visit IS NOT NULL AS clouded
  FROM block b
  JOIN visit v USING (visit)
  LEFT JOIN cloudy c USING (visit)
),
named AS (
  SELECT DISTINCT 'zero_point' AS kind, band, visit, NULL :: INTEGER AS detector, NULL :: INTEGER AS day_obs, NULL AS epoch
  FROM seen
  UNION ALL
  SELECT DISTINCT 'flat', band, NULL, detector, NULL, epoch FROM seen
  UNION ALL
  SELECT DISTINCT 'offset', band, visit, detector, NULL, NULL FROM seen WHERE clouded
  UNION ALL
  SELECT DISTINCT 'colour', band, NULL, NULL, day_obs, NULL FROM seen WHERE $colours AND aired
  UNION ALL
  SELECT DISTINCT 'reference_colour', band, NULL, NULL, NULL, NULL FROM block WHERE $colours AND reference
  UNION ALL
  SELECT DISTINCT unnest(['night', 'extinction']), band, NULL, NULL, day_obs, NULL FROM seen WHERE aired AND NOT clouded
)
SELECT CAST(row_number() OVER (ORDER BY band, kind, visit, day_obs, epoch, detector) - 1 AS INTEGER) AS number, *
FROM named
ORDER BY number
