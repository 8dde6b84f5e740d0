-- changing: the difference objects whose light curves vary most.
-- inputs: dia_object, dia_object_forced_source; $limit
-- grain: one row per object (sites that share a tract have the same objects: the first one's), most variable first.
-- significance: chi squared per degree of freedom of the difference fluxes about their mean, in the band that shows it best
WITH curve AS (
    SELECT diaObjectId, site, band, count(*) AS n,
           sum(psfDiffFlux / psfDiffFluxErr ** 2) / sum(1 / psfDiffFluxErr ** 2) AS mean,
           sum(psfDiffFlux ** 2 / psfDiffFluxErr ** 2) AS square, sum(1 / psfDiffFluxErr ** 2) AS weight
    FROM dia_object_forced_source
    WHERE NOT coalesce(flag_bad, false) AND psfDiffFluxErr > 0 AND isfinite(psfDiffFlux)
    GROUP BY diaObjectId, site, band HAVING count(*) >= 2
),
best AS (
    SELECT diaObjectId, min(site) AS site, max((square - weight * mean ** 2) / (n - 1)) AS significance, sum(n) AS points
    FROM curve GROUP BY diaObjectId
)
SELECT o.diaObjectId, o.site, o.tract, o.coord_ra AS ra, o.coord_dec AS dec, o.nDiaSources AS sources, b.significance
FROM best b JOIN dia_object o ON o.diaObjectId = b.diaObjectId AND o.site = b.site
ORDER BY b.significance DESC, o.diaObjectId
LIMIT $limit
