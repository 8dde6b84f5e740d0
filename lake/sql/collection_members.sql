-- Makes: the datasets in the collections of a search, each with its place among those of the same type and data ID.
-- Inputs: searched (position, collection, kind), dataset, association, certification_now; parameter mjd (null: calibration
--         collections are not looked into, for what is valid in them depends on the time).
-- Grain: one row per (collection, dataset). place 1 is what the search finds; the others are shadowed by shadowed_by.
WITH tagged AS (
    SELECT collection, dataset_id
    FROM association
    QUALIFY row_number() OVER (PARTITION BY collection, dataset_id ORDER BY noted_at DESC) = 1 AND NOT removed
),
members AS (
    SELECT d.*, s.collection, s.position
    FROM dataset d
    JOIN searched s ON s.kind = 'RUN' AND s.collection = d.run
    UNION ALL
    SELECT d.*, s.collection, s.position
    FROM dataset d
    JOIN tagged USING (dataset_id)
    JOIN searched s ON s.kind = 'TAGGED' AND s.collection = tagged.collection
    UNION ALL
    SELECT d.*, s.collection, s.position
    FROM dataset d
    JOIN certification_now c USING (dataset_id)
    JOIN searched s ON s.kind = 'CALIBRATION' AND s.collection = c.collection
    WHERE $mjd >= c.valid_begin AND $mjd < c.valid_end
)
SELECT
    * EXCLUDE (position),
    row_number() OVER found AS place,
    CASE WHEN first_value(dataset_id) OVER found <> dataset_id THEN first_value(collection) OVER found END AS shadowed_by
FROM members
WINDOW found AS (
    PARTITION BY
        dataset_type, instrument, exposure, visit, detector, physical_filter, band, day_obs, skymap, tract, patch
    ORDER BY position, dataset_id
)
