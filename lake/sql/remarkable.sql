-- Makes: known (what is registered under ids of the batch), repeated (rows whose id is in the batch twice), unknown (rows whose
--        data ID refers to a dimension record that is not here).
-- Inputs: given (ordinal, the columns of dataset), the dimension tables, registered (rows of dataset).
-- Grain: known has one row per id, the others one per row of given. nth counts the rows of one id: only the first can be accepted.
-- Batches have a million rows: all of them are looked at by narrow joins, and only what these find is looked at again.
CREATE OR REPLACE TEMP TABLE candidates AS SELECT dataset_id, checksum, path FROM registered;

CREATE OR REPLACE TEMP TABLE known AS
SELECT dataset_id, min(checksum) AS known_checksum, min(path) AS known_path
FROM candidates SEMI JOIN (FROM given WHERE (SELECT count(*) > 0 FROM candidates)) USING (dataset_id)
GROUP BY dataset_id;

CREATE OR REPLACE TEMP TABLE repeated AS
SELECT
    ordinal,
    row_number() OVER same_id AS nth,
    first_value(checksum) OVER same_id AS first_checksum
FROM given
SEMI JOIN (
    SELECT dataset_id
    FROM given
    SEMI JOIN (SELECT hash(dataset_id) AS h FROM given GROUP BY h HAVING count(*) > 1) twice ON twice.h = hash(dataset_id)
    GROUP BY dataset_id
    HAVING count(*) > 1
) USING (dataset_id)
WINDOW same_id AS (PARTITION BY dataset_id ORDER BY ordinal);

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
