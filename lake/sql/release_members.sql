-- Makes: the ids of the datasets that a search of collections finds: of each type and data ID, the first collection that has it.
-- Inputs: searched (position, collection, kind: RUN or TAGGED), dataset, association. Grain: one row per (dataset type, data ID).
-- It becomes part of a rule's predicate, on one line: every comment is a line of its own.
SELECT dataset_id
FROM (
    SELECT d.*, s.position
    FROM dataset d
    JOIN searched s ON s.kind = 'RUN' AND s.collection = d.run
    UNION ALL
    SELECT d.*, s.position
    FROM dataset d
    JOIN (
        FROM association
        QUALIFY row_number() OVER (PARTITION BY collection, dataset_id ORDER BY noted_at DESC) = 1
    ) a ON a.dataset_id = d.dataset_id AND NOT a.removed
    JOIN searched s ON s.kind = 'TAGGED' AND s.collection = a.collection
)
QUALIFY row_number() OVER (
    PARTITION BY
        dataset_type, instrument, exposure, visit, detector, physical_filter, band, day_obs, skymap, tract, patch
    ORDER BY position, dataset_id
) = 1
