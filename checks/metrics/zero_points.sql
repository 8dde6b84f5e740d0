-- zero_points: scatter of the final zero points over the detectors of a visit, each detector's usual offset taken out.
-- inputs: photo_calib of the central site ({central} is its schema)
-- grain: one row per visit. scatter: standard deviation over the detectors, mmag, null unless every detector has a zero point;
-- error: largest stated error, mmag
WITH centred AS (
    SELECT visit, detector, band, instrument, zeroPoint, zeroPointErr, photometric,
           zeroPoint - median(zeroPoint) OVER (PARTITION BY visit) AS centred
    FROM {central}.photo_calib
),
usual AS (
    SELECT instrument, band, detector, median(centred) AS centred FROM centred WHERE photometric GROUP BY instrument, band, detector
)
SELECT
    c.visit, c.band, bool_and(c.photometric) AS photometric,
    count(*) AS detectors, median(c.zeroPoint) AS zero_point,
    CASE WHEN count(c.zeroPoint) = count(*) THEN 1000 * coalesce(stddev_pop(c.centred - coalesce(u.centred, 0)), 0) END AS scatter,
    1000 * max(c.zeroPointErr) AS error
FROM centred c
LEFT JOIN usual u USING (instrument, band, detector)
GROUP BY c.visit, c.band
ORDER BY c.visit
