-- calib_flats: offset of each detector in an epoch; their mean over the detectors of an epoch is zero.
-- inputs: unknown, solved(number, value, error), solved_block(block, stars), block, visit
-- grain: one row per instrument, band, epoch, detector
WITH counted AS (
  SELECT v.instrument, b.band, v.epoch, b.detector, sum(s.stars) AS stars
  FROM block b
  JOIN visit v USING (visit)
  JOIN solved_block s USING (block)
  GROUP BY v.instrument, b.band, v.epoch, b.detector
),
mean AS (
  SELECT u.band, u.epoch, total(s.value) / count(*) AS value
  FROM unknown u JOIN solved s USING (number)
  WHERE u.kind = 'flat'
  GROUP BY u.band, u.epoch
)
SELECT n.instrument, u.band, u.epoch, u.detector, s.value - m.value AS "offset", s.error AS offsetErr,
       CAST(n.stars AS INTEGER) AS nStar
FROM unknown u
JOIN solved s USING (number)
JOIN mean m USING (band, epoch)
JOIN counted n USING (band, epoch, detector)
WHERE u.kind = 'flat'
ORDER BY n.instrument, u.band, u.epoch, u.detector
