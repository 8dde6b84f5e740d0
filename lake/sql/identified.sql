-- Makes: identified (every given dataset with its id), known (those ids that are registered) and unknown (values of data IDs that
--        have no dimension record).
-- Inputs: dataset_names (ordinal, the columns of dataset, name, missing; a dataset_id that is '' is filled in here), given, the
--         dimension tables, registered (rows of dataset), macro uuid5.
-- Grain: identified one row per given row, known one per id, unknown one per given row that has such a value: the first.
-- The tables are narrow, and only rows that stand out are looked at again: batches have a million rows.
CREATE OR REPLACE TEMP TABLE identified AS
SELECT
    *,
    coalesce(nullif(given_id, ''), computed_id) AS dataset_id
FROM (
    SELECT ordinal, dataset_type, path, file_bytes, checksum, missing, dataset_id AS given_id, uuid5(name) AS computed_id
    FROM dataset_names
);

CREATE OR REPLACE TEMP TABLE known AS
SELECT dataset_id, min(checksum) AS known_checksum, min(path) AS known_path
FROM registered SEMI JOIN identified USING (dataset_id)
GROUP BY dataset_id;

-- The one join with the dimension records: every value that a data ID refers to and that has no record, the first one named.
CREATE OR REPLACE TEMP TABLE unknown AS
SELECT ordinal, arg_min(what, rank) AS what
FROM (
    SELECT ordinal, 1 AS rank, 'instrument ' || instrument AS what
    FROM given ANTI JOIN instrument USING (instrument) WHERE instrument IS NOT NULL
    UNION ALL
    SELECT ordinal, 2, 'exposure ' || exposure
    FROM given ANTI JOIN exposure USING (instrument, exposure) WHERE exposure IS NOT NULL
    UNION ALL
    SELECT ordinal, 3, 'visit ' || visit
    FROM given ANTI JOIN visit USING (instrument, visit) WHERE visit IS NOT NULL
    UNION ALL
    SELECT ordinal, 4, 'detector ' || detector
    FROM given ANTI JOIN detector USING (instrument, detector) WHERE detector IS NOT NULL
    UNION ALL
    SELECT ordinal, 5, 'physical_filter ' || physical_filter
    FROM given ANTI JOIN physical_filter USING (instrument, physical_filter) WHERE physical_filter IS NOT NULL
    UNION ALL
    SELECT ordinal, 6, 'skymap ' || skymap
    FROM given ANTI JOIN skymap USING (skymap) WHERE skymap IS NOT NULL
    UNION ALL
    SELECT ordinal, 7, 'tract ' || tract
    FROM given ANTI JOIN tract USING (skymap, tract) WHERE tract IS NOT NULL
    UNION ALL
    SELECT ordinal, 8, 'patch ' || patch || coalesce(' of tract ' || tract, '')
    FROM given ANTI JOIN patch USING (skymap, tract, patch) WHERE patch IS NOT NULL
)
GROUP BY ordinal;
