-- reference_candidates: reference stars where they were at the mean time of the visits (proper motion in the plane of the sky), at their
--   own epoch where no time is known.
-- inputs: reference_star, visit
-- grain: one row per reference_id
SELECT DISTINCT ON (reference_id)
  reference_id,
  coord_ra + coalesce(pm_ra, 0) * years / 3.6e6 / cos(radians(coord_dec)) AS ra,
  coord_dec + coalesce(pm_dec, 0) * years / 3.6e6 AS dec
FROM (SELECT *, coalesce((SELECT median(mjd) FROM visit) - epoch, 0) / 365.25 AS years FROM reference_star)
WHERE isfinite(coord_ra) AND isfinite(coord_dec) AND (coalesce(isfinite(g_mag), false) OR coalesce(isfinite(r_mag), false)
   OR coalesce(isfinite(i_mag), false) OR coalesce(isfinite(z_mag), false))
ORDER BY reference_id
