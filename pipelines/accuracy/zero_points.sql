-- zero_points: final zero points against the true ones, on visits that truly were photometric.
-- inputs: photo_calib, truth_photo_calib
-- grain: one row per band, and one (band null) for all of them with one constant
-- constant: mean of (solved - true), mmag; rms: what is left without it, mmag
SELECT
    p.band, count(*) AS n,
    1000 * avg(p.zeroPoint - t.zeroPoint)        AS constant,
    1000 * stddev_pop(p.zeroPoint - t.zeroPoint) AS rms
FROM photo_calib p
JOIN truth_photo_calib t USING (visit, detector)
WHERE t.photometric
GROUP BY GROUPING SETS ((p.band), ())
ORDER BY p.band NULLS FIRST
