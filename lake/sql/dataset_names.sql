-- Makes: dataset_names, the text that a dataset's id is computed from: "dataset_type|run|key=value|..." over the required
--        dimensions in canonical order. A required value that is missing stands as "?" (ingest rejects the row).
-- Inputs: given (ordinal, dataset_type, run, data ID columns), types (dataset_type, dimensions: list of text).
-- Grain: one row per row of given, with its columns; name is null where the type is not known.
CREATE OR REPLACE TEMP VIEW dataset_names AS
WITH required AS (
    SELECT
        dataset_type,
        'instrument' IN dimensions AS instrument,
        'exposure' IN dimensions AS exposure,
        'visit' IN dimensions AS visit,
        'detector' IN dimensions AS detector,
        'physical_filter' IN dimensions AS physical_filter,
        'band' IN dimensions AS band,
        'day_obs' IN dimensions AS day_obs,
        'skymap' IN dimensions AS skymap,
        'tract' IN dimensions AS tract,
        'patch' IN dimensions AS patch
    FROM types
)
SELECT
    g.*,
    if(r.dataset_type IS NULL, NULL, concat(
        g.dataset_type, '|', g.run,
        if(r.instrument, '|instrument=' || ifnull(g.instrument, '?'), ''),
        if(r.exposure, '|exposure=' || ifnull(g.exposure::VARCHAR, '?'), ''),
        if(r.visit, '|visit=' || ifnull(g.visit::VARCHAR, '?'), ''),
        if(r.detector, '|detector=' || ifnull(g.detector::VARCHAR, '?'), ''),
        if(r.physical_filter, '|physical_filter=' || ifnull(g.physical_filter, '?'), ''),
        if(r.band, '|band=' || ifnull(g.band, '?'), ''),
        if(r.day_obs, '|day_obs=' || ifnull(g.day_obs::VARCHAR, '?'), ''),
        if(r.skymap, '|skymap=' || ifnull(g.skymap, '?'), ''),
        if(r.tract, '|tract=' || ifnull(g.tract::VARCHAR, '?'), ''),
        if(r.patch, '|patch=' || ifnull(g.patch::VARCHAR, '?'), '')
    )) AS name,
    concat_ws(
        ', ',
        if(r.instrument AND g.instrument IS NULL, 'instrument', NULL),
        if(r.exposure AND g.exposure IS NULL, 'exposure', NULL),
        if(r.visit AND g.visit IS NULL, 'visit', NULL),
        if(r.detector AND g.detector IS NULL, 'detector', NULL),
        if(r.physical_filter AND g.physical_filter IS NULL, 'physical_filter', NULL),
        if(r.band AND g.band IS NULL, 'band', NULL),
        if(r.day_obs AND g.day_obs IS NULL, 'day_obs', NULL),
        if(r.skymap AND g.skymap IS NULL, 'skymap', NULL),
        if(r.tract AND g.tract IS NULL, 'tract', NULL),
        if(r.patch AND g.patch IS NULL, 'patch', NULL)
    ) AS missing
FROM given g
LEFT JOIN required r ON r.dataset_type = g.dataset_type;
