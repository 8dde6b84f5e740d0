-- terms: how the unknowns make the calibration of a block: zero point (part 0) and slope with colour (part 1).
-- inputs: block, visit, unknown; $airmass: the one at which the natural system is defined
-- grain: one row per block, part, unknown
WITH seen AS (
  SELECT b.block, b.band, b.visit, b.detector, v.epoch, v.day_obs, v.airmass FROM block b JOIN visit v USING (visit)
)
SELECT s.block, 0 AS part, u.number, CAST(1 AS DOUBLE) AS value
FROM seen s JOIN unknown u USING (band, visit)
WHERE u.kind = 'zero_point'
UNION ALL
SELECT s.block, 0, u.number, 1
FROM seen s JOIN unknown u USING (band, epoch, detector)
WHERE u.kind = 'flat'
UNION ALL
SELECT s.block, 0, u.number, 1
FROM seen s JOIN unknown u USING (band, visit, detector)
WHERE u.kind = 'offset'
UNION ALL
SELECT s.block, 1, u.number, $airmass - s.airmass
FROM seen s JOIN unknown u USING (band, day_obs)
WHERE u.kind = 'colour' AND s.airmass IS NOT NULL
UNION ALL
SELECT b.block, 1, u.number, 1
FROM block b JOIN unknown u USING (band)
WHERE u.kind = 'reference_colour' AND b.reference
ORDER BY 1, 2, 3
