-- reference_box: reference stars around a point, moved to the epoch of an exposure, brightest first.
-- inputs: reference_star (view of the tracts that the detector may overlap)
-- grain: one row per star; a star that two tracts list comes once
-- parameters: ra, dec, radius (deg), mjd (MJD TAI of the exposure), band
WITH moved AS (
    SELECT DISTINCT ON (reference_id)
        reference_id,
        (mjd_years * coalesce(pm_ra, 0.0) / 3.6e6) / greatest(cos(radians(coord_dec)), 1e-6) + coord_ra AS ra,
        mjd_years * coalesce(pm_dec, 0.0) / 3.6e6 + coord_dec AS dec,
        greatest(coalesce(coord_raErr, 0.0), coalesce(coord_decErr, 0.0)) AS position_err,
        CASE $band WHEN 'g' THEN g_mag WHEN 'r' THEN r_mag WHEN 'i' THEN i_mag WHEN 'z' THEN z_mag END AS mag,
        CASE $band WHEN 'g' THEN g_magErr WHEN 'r' THEN r_magErr WHEN 'i' THEN i_magErr WHEN 'z' THEN z_magErr END
            AS mag_err,
        coalesce(mag, r_mag, i_mag, g_mag, z_mag) AS any_mag
    FROM (SELECT *, ($mjd - epoch) / 365.25 AS mjd_years FROM reference_star)
    WHERE abs(coord_dec - $dec) < $radius
      AND abs((coord_ra - $ra + 540.0) % 360.0 - 180.0) * cos(radians($dec)) < $radius
    ORDER BY reference_id
)
SELECT reference_id, ra, dec, position_err, mag, mag_err
FROM moved
ORDER BY any_mag, reference_id;
