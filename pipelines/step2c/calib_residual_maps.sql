-- calib_residual_maps: mean residuals over each detector, in 8 x 8 cells, in this tract.
-- inputs: residual, observation, visit
-- grain: one row per band, epoch, detector, cell
SELECT r.band, v.epoch, r.detector,
       CAST(least(greatest(floor((o.px + 1) * 4), 0), 7) AS INTEGER) AS ix,
       CAST(least(greatest(floor((o.py + 1) * 4), 0), 7) AS INTEGER) AS iy,
       total(r.w * r.r) / total(r.w) AS residual, total(r.w) AS weight, CAST(count(*) AS INTEGER) AS nStar
FROM residual r
JOIN observation o ON o.star = r.star AND o.visit = r.visit
JOIN visit v ON v.visit = r.visit
WHERE r.used AND r.fitted AND o.px IS NOT NULL
GROUP BY r.band, v.epoch, r.detector, ix, iy
ORDER BY r.band, v.epoch, r.detector, ix, iy
