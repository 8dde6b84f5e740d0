-- known: the brightest true variables and transients of the simulation that are difference objects.
-- inputs: truth_star, truth_transient, dia_object, skymap; $limit
-- grain: one row per true source (nearest difference object within two pixels), brightest of each kind first
WITH source AS (
    SELECT truthId, 'variable' AS kind, coord_ra, coord_dec, r_mag AS mag, g_mag, r_mag, i_mag, z_mag, amplitude, period, phase,
           NULL::DOUBLE AS mjd_start, NULL::DOUBLE AS mjd_end
    FROM truth_star WHERE kind = 'variable'
    UNION ALL
    SELECT truthId, 'transient', coord_ra, coord_dec, mag, mag, mag, mag, mag, 0, 1, 0, mjd_start, mjd_end FROM truth_transient
),
scale AS (SELECT max(pixel_scale) / 3600 AS pixel FROM skymap),
pair AS (
    SELECT s.*, o.diaObjectId, o.site, o.tract, o.coord_ra AS ra, o.coord_dec AS dec, o.nDiaSources AS sources,
           sqrt((((s.coord_ra - o.coord_ra + 540) % 360 - 180) * cos(radians(s.coord_dec))) ** 2
                + (s.coord_dec - o.coord_dec) ** 2) AS distance
    FROM source s JOIN dia_object o ON abs(s.coord_dec - o.coord_dec) < 0.02
)
SELECT * EXCLUDE (pixel)
FROM pair, scale
WHERE distance < 2 * pixel
QUALIFY row_number() OVER (PARTITION BY truthId ORDER BY distance, site) = 1
    AND row_number() OVER (PARTITION BY kind ORDER BY mag, truthId) <= $limit
ORDER BY kind, mag, truthId
