-- light_curves: forced fluxes at the positions of objects.
-- inputs: object_forced_source, object; $tracts
-- grain: one row per object, visit and detector (sites that share a tract have the same rows: the first one's)
SELECT o.objectId, any_value(o.coord_ra) AS coord_ra, any_value(o.coord_dec) AS coord_dec,
       f.visit, f.detector, any_value(f.band) AS band, any_value(f.midpointMjdTai) AS mjd,
       arg_min(f.psfFlux, f.site) AS flux, arg_min(f.psfFluxErr, f.site) AS err
FROM object_forced_source f
JOIN object o USING (objectId, site)
WHERE list_contains($tracts::INTEGER[], o.tract) AND o.detect_isPrimary AND NOT coalesce(f.flag_bad, false)
    AND f.psfFluxErr > 0 AND isfinite(f.psfFlux)
GROUP BY o.objectId, f.visit, f.detector
ORDER BY o.objectId, band, f.visit, f.detector
