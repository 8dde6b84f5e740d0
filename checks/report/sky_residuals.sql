-- sky_residuals: what is left of the detectors of photometric visits after the global calibration, by place on the sky.
-- inputs: calib_residual, calib_visit, visit_detector_region of the central site ({central}); $cell (deg)
-- grain: one row per band and cell of the sky. value: weighted rms of the mean residuals, mmag; ra, dec: middle of the cell
WITH place AS (
    SELECT r.band, r.residual, r.weight, p.ra, p.dec, floor(p.dec / $cell) AS row,
           floor(p.ra * cos(radians((floor(p.dec / $cell) + 0.5) * $cell)) / $cell) AS col
    FROM {central}.calib_residual r
    JOIN {central}.calib_visit v ON v.visit = r.visit AND v.photometric
    JOIN {central}.visit_detector_region p ON p.visit = r.visit AND p.detector = r.detector AND p.instrument = v.instrument
    WHERE r.weight > 0
)
SELECT band, (col + 0.5) * $cell / cos(radians((row + 0.5) * $cell)) AS ra, (row + 0.5) * $cell AS dec,
       1000 * sqrt(sum(weight * residual ** 2) / sum(weight)) AS value, count(*) AS n
FROM place
GROUP BY band, row, col
ORDER BY band, row, col
