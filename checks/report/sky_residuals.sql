-- sky_residuals: what is left of the detectors of photometric visits after the global calibration, by place on the sky.
-- inputs: calib_residual, calib_visit, visit_detector_region of the central site ({central}); $cell (deg)
-- grain: one row per band and cell of the sky; a detector stands for the middles of its quarters. value: weighted rms of the mean residuals, mmag; ra, dec: middle of the cell
WITH quarter AS (
    SELECT r.band, r.residual, r.weight, unnest([
        {ra: p.ra + d0 / 2, dec: (p.dec + p.dec0) / 2}, {ra: p.ra + d1 / 2, dec: (p.dec + p.dec1) / 2},
        {ra: p.ra + d2 / 2, dec: (p.dec + p.dec2) / 2}, {ra: p.ra + d3 / 2, dec: (p.dec + p.dec3) / 2}
    ], recursive := true)
    FROM {central}.calib_residual r
    JOIN {central}.calib_visit v ON v.visit = r.visit AND v.photometric
    JOIN (
        SELECT *, (ra0 - ra + 540) % 360 - 180 AS d0, (ra1 - ra + 540) % 360 - 180 AS d1,
               (ra2 - ra + 540) % 360 - 180 AS d2, (ra3 - ra + 540) % 360 - 180 AS d3
        FROM {central}.visit_detector_region
    ) p ON p.visit = r.visit AND p.detector = r.detector AND p.instrument = v.instrument
    WHERE r.weight > 0
),
place AS (
    SELECT band, residual, weight, floor(dec / $cell) AS row,
           floor((ra + 360) % 360 * cos(radians((floor(dec / $cell) + 0.5) * $cell)) / $cell) AS col
    FROM quarter
)
SELECT band, (col + 0.5) * $cell / cos(radians((row + 0.5) * $cell)) AS ra, (row + 0.5) * $cell AS dec,
       1000 * sqrt(sum(weight * residual ** 2) / sum(weight)) AS value, count(*) AS n
FROM place
GROUP BY band, row, col
ORDER BY band, row, col
