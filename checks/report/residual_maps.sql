-- residual_maps: what is left over each detector after the global calibration, from all tracts and epochs.
-- inputs: calib_residual_map, calib_visit, detector of the central site ({central})
-- grain: one row per band, detector and cell (ix, iy of 8 by 8). residual: weighted mean, mmag; x, y, width, height as in flats
SELECT m.band, m.detector, m.ix, m.iy, 1000 * sum(m.weight * m.residual) / sum(m.weight) AS residual, sum(m.nStar)::BIGINT AS stars,
       any_value(coalesce(d.x_centre, 0)) AS x, any_value(coalesce(d.y_centre, 0)) AS y,
       any_value(d.width) AS width, any_value(d.height) AS height
FROM {central}.calib_residual_map m
JOIN {central}.detector d ON d.detector = m.detector AND d.instrument = (SELECT min(instrument) FROM {central}.calib_visit)
WHERE m.weight > 0
GROUP BY m.band, m.detector, m.ix, m.iy
ORDER BY m.band, m.detector, m.ix, m.iy
