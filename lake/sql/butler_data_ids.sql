-- Makes: the data ID columns of datasets of an export, with all that their visit, exposure or filter implies.
-- Inputs: given (ordinal and the data ID columns; what a Butler's data ID does not have is null), known_<table> (records of
--         the site), from_<table> (records of the export, which serve where the site has none).
-- Grain: one row per row of given, in order.
WITH visits AS (
    SELECT instrument, visit, exposure, physical_filter, band, day_obs FROM known_visit
    UNION ALL
    SELECT f.instrument, f.visit, f.exposure, f.physical_filter, f.band, f.day_obs
    FROM from_visit f
    ANTI JOIN known_visit USING (instrument, visit)
),
visit_of_exposure AS (
    SELECT instrument, exposure, min(visit) AS visit FROM visits GROUP BY instrument, exposure
),
exposures AS (
    SELECT instrument, exposure, physical_filter, band, day_obs FROM known_exposure
    UNION ALL
    SELECT f.instrument, f.exposure, f.physical_filter, f.band, f.day_obs
    FROM from_exposure f
    ANTI JOIN known_exposure USING (instrument, exposure)
),
filters AS (
    SELECT instrument, physical_filter, band FROM known_physical_filter
    UNION
    SELECT f.instrument, f.physical_filter, f.band
    FROM from_physical_filter f
    ANTI JOIN known_physical_filter USING (instrument, physical_filter)
)
SELECT
    g.instrument,
    coalesce(g.exposure, v.exposure) AS exposure,
    coalesce(g.visit, w.visit) AS visit,
    g.detector,
    coalesce(g.physical_filter, v.physical_filter, e.physical_filter) AS physical_filter,
    coalesce(g.band, v.band, e.band, f.band) AS band,
    coalesce(g.day_obs, v.day_obs, e.day_obs) AS day_obs,
    g.skymap,
    g.tract,
    g.patch
FROM given g
LEFT JOIN visits v ON v.instrument = g.instrument AND v.visit = g.visit
LEFT JOIN exposures e ON e.instrument = g.instrument AND e.exposure = g.exposure
LEFT JOIN visit_of_exposure w ON w.instrument = g.instrument AND w.exposure = g.exposure
LEFT JOIN filters f ON f.instrument = g.instrument AND f.physical_filter = g.physical_filter
ORDER BY g.ordinal
