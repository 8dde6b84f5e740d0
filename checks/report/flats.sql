-- flats: what the global calibration adds to each detector, as it varies over the detector where that was fitted.
-- inputs: calib_flat, detector of the central site ({central})
-- grain: one row per band, epoch and detector. offset, error, t10 .. t02: mmag; x, y: centre on the focal plane; width, height: pixels
SELECT f.band, f.epoch, f.detector, 1000 * f.offset AS offset, 1000 * f.offsetErr AS error,
       1000 * f.t10 AS t10, 1000 * f.t01 AS t01, 1000 * f.t20 AS t20, 1000 * f.t11 AS t11, 1000 * f.t02 AS t02,
       coalesce(d.x_centre, 0) AS x, coalesce(d.y_centre, 0) AS y, d.width, d.height
FROM {central}.calib_flat f
JOIN {central}.detector d ON d.instrument = f.instrument AND d.detector = f.detector
ORDER BY f.band, f.epoch, f.detector
