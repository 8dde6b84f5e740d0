-- Makes: the datasets that a search of collections finds: of each type and data ID the one in the first collection that has it.
-- Inputs: searched (position, collection, kind: RUN or TAGGED), dataset, association.
-- Grain: one row per (dataset type, data ID); columns of dataset and the collection that has it.
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
)
SELECT * EXCLUDE (position)
FROM members
QUALIFY row_number() OVER (
    PARTITION BY
        dataset_type, instrument, exposure, visit, detector, physical_filter, band, day_obs, skymap, tract, patch
    ORDER BY position, dataset_id
) = 1
