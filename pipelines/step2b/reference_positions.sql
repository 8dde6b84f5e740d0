-- reference_positions: reference stars with an error in arcsec (0.01 where the catalogue states none).
-- inputs: reference_star
-- grain: one row per reference star, ordered by reference_id
SELECT reference_id, coord_ra AS ra, coord_dec AS dec, pm_ra, pm_dec, parallax, epoch,
       3600 * sqrt(coalesce((coord_raErr * coord_raErr + coord_decErr * coord_decErr) / 2, pow(0.01 / 3600, 2))) AS error
FROM reference_star
WHERE isfinite(coord_ra) AND isfinite(coord_dec)
ORDER BY reference_id
