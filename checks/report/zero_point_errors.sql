-- zero_point_errors: final zero points of photometric visits against the truth, where there is truth.
-- inputs: photo_calib of the central site ({central}), truth_photo_calib
-- grain: one row per band and half mmag of solved - true (mmag); mean, rms: of the band
WITH off AS (
    SELECT p.band, 1000 * (p.zeroPoint - t.zeroPoint) AS error
    FROM {central}.photo_calib p
    JOIN {central}.truth_photo_calib t ON t.visit = p.visit AND t.detector = p.detector
    WHERE p.photometric AND p.zeroPoint IS NOT NULL AND t.zeroPoint IS NOT NULL
),
band AS (
    SELECT band, avg(error) AS mean, stddev_pop(error) AS rms FROM off GROUP BY band
)
SELECT band, floor(2 * error) / 2 AS low, count(*) AS number, any_value(mean) AS mean, any_value(rms) AS rms
FROM off JOIN band USING (band)
WHERE abs(error) < 12
GROUP BY band, low
ORDER BY band, low
