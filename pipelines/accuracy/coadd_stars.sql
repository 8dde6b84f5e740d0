-- coadd_stars: isolated point sources of the coadds, measured well.
-- inputs: object; $tracts
-- grain: one row per object and band with S/N > 50 (sites that share a tract have the same objects: the first one's)
WITH one AS (
    SELECT *
    FROM object
    WHERE list_contains($tracts::INTEGER[], tract) AND detect_isPrimary AND parentObjectId IS NULL
        AND NOT coalesce(flag_edge, false) AND NOT coalesce(flag_saturated, false)
    QUALIFY row_number() OVER (PARTITION BY objectId ORDER BY site) = 1
),
measured AS (
    SELECT objectId, coord_ra, coord_dec, 'g' AS band, g_psfFlux AS flux, g_psfFluxErr AS err, g_psfFlux_flag AS flag FROM one
    UNION ALL BY NAME
    SELECT objectId, coord_ra, coord_dec, 'r' AS band, r_psfFlux AS flux, r_psfFluxErr AS err, r_psfFlux_flag AS flag FROM one
    UNION ALL BY NAME
    SELECT objectId, coord_ra, coord_dec, 'i' AS band, i_psfFlux AS flux, i_psfFluxErr AS err, i_psfFlux_flag AS flag FROM one
    UNION ALL BY NAME
    SELECT objectId, coord_ra, coord_dec, 'z' AS band, z_psfFlux AS flux, z_psfFluxErr AS err, z_psfFlux_flag AS flag FROM one
)
SELECT objectId, coord_ra, coord_dec, band, flux, err
FROM measured
WHERE flux > 50 * err AND NOT coalesce(flag, false)
ORDER BY objectId, band
