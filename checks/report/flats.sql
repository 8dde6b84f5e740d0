-- flats: what the global calibration adds to each detector.
-- inputs: calib_flat, detector of the central site ({central})
-- grain: one row per band, epoch and detector
SELECT f.band, f.epoch, f.detector, 1000 * f.offset AS offset, 1000 * f.offsetErr AS error, d.x_centre AS x, d.y_centre AS y
FROM {central}.calib_flat f
JOIN {central}.detector d ON d.instrument = f.instrument AND d.detector = f.detector
ORDER BY f.band, f.epoch, f.detector
