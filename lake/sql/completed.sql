-- Makes: given rows with the parts of the data ID that a visit or an exposure implies, where they are not given.
-- Inputs: given (ordinal, data ID columns and others), visit, exposure, physical_filter. Grain: one row per row of given, in order.
SELECT g.* REPLACE (
    coalesce(g.exposure, v.exposure) AS exposure,
    coalesce(g.visit, w.visit) AS visit,
    coalesce(g.physical_filter, v.physical_filter, e.physical_filter) AS physical_filter,
    coalesce(g.band, v.band, e.band, f.band) AS band,
    coalesce(g.day_obs, v.day_obs, e.day_obs) AS day_obs
)
FROM given g
LEFT JOIN visit v ON v.instrument = g.instrument AND v.visit = g.visit
LEFT JOIN exposure e ON e.instrument = g.instrument AND e.exposure = g.exposure
LEFT JOIN visit w ON w.instrument = g.instrument AND w.exposure = g.exposure AND g.visit IS NULL
LEFT JOIN physical_filter f ON f.instrument = g.instrument AND f.physical_filter = g.physical_filter
ORDER BY g.ordinal
