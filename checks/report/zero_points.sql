-- zero_points: final zero points in time, with what truth says where there is truth.
-- inputs: photo_calib of the central site ({central}), visit, truth_photo_calib
-- grain: one row per visit and detector
SELECT p.visit, p.detector, p.band, p.day_obs, v.mjd_mid, v.airmass, p.zeroPoint AS zero_point, p.photometric, p.extrapolated,
       1000 * (p.zeroPoint - t.zeroPoint) AS error
FROM {central}.photo_calib p
JOIN {central}.visit v ON v.visit = p.visit AND v.instrument = p.instrument
LEFT JOIN {central}.truth_photo_calib t ON t.visit = p.visit AND t.detector = p.detector
WHERE p.zeroPoint IS NOT NULL
ORDER BY p.band, v.mjd_mid, p.detector
