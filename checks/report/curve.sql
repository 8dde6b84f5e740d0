-- curve: forced fluxes of difference objects.
-- inputs: dia_object_forced_source; $ids, $sites (lists of equal length)
-- grain: one row per object, visit and detector
SELECT f.diaObjectId, f.band, f.midpointMjdTai AS mjd, f.psfDiffFlux AS flux, f.psfDiffFluxErr AS err
FROM dia_object_forced_source f
JOIN (SELECT unnest($ids::BIGINT[]) AS diaObjectId, unnest($sites::VARCHAR[]) AS site) w USING (diaObjectId, site)
WHERE NOT coalesce(f.flag_bad, false) AND isfinite(f.psfDiffFlux) AND f.psfDiffFluxErr > 0
ORDER BY f.diaObjectId, f.band, mjd
