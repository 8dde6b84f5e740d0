-- Makes: judged, the verdict (present, parked, rejected) and its reason for every given dataset that is not simply accepted.
-- Inputs: given (ordinal, the columns of dataset), identified (ordinal, fault, unknown_type: see identified.sql), the dimension
--         tables, registered (rows of dataset), storage (path, file_bytes, problem: files that are not as claimed); variable 'site'.
-- Grain: one row per such row of given. nth counts the rows of one id: only the first can be accepted.
-- Batches have a million rows: all of them are looked at by narrow joins, and only what these find is looked at again.
CREATE OR REPLACE TEMP TABLE known AS
SELECT dataset_id, min(checksum) AS known_checksum, min(path) AS known_path
FROM registered SEMI JOIN given USING (dataset_id)
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

CREATE OR REPLACE TEMP TABLE judged AS
WITH remarkable AS (
    SELECT ordinal FROM given SEMI JOIN known USING (dataset_id)
    UNION SELECT ordinal FROM repeated
    UNION SELECT ordinal FROM unknown
    UNION SELECT ordinal FROM given SEMI JOIN storage USING (path, file_bytes)
    UNION SELECT ordinal FROM identified WHERE fault IS NOT NULL OR unknown_type
),
compared AS (
    SELECT
        g.ordinal, g.dataset_id, g.dataset_type, g.checksum, i.fault, i.unknown_type, u.what, x.problem, k.known_checksum, k.known_path,
        coalesce(r.nth, 1) AS nth,
        coalesce(r.first_checksum, g.checksum) AS first_checksum
    FROM given g
    SEMI JOIN remarkable USING (ordinal)
    JOIN identified i USING (ordinal)
    LEFT JOIN repeated r USING (ordinal)
    LEFT JOIN unknown u USING (ordinal)
    LEFT JOIN storage x ON x.path = g.path AND x.file_bytes = g.file_bytes
    LEFT JOIN known k ON k.dataset_id = g.dataset_id
)
SELECT
    ordinal, dataset_id, checksum, nth, known_path,
    CASE
        WHEN fault IS NOT NULL OR problem IS NOT NULL THEN 'rejected'
        WHEN known_checksum = checksum THEN 'present'
        WHEN known_checksum <> checksum OR first_checksum <> checksum THEN 'rejected'
        WHEN unknown_type OR what IS NOT NULL THEN 'parked'
        WHEN nth > 1 THEN 'present'
        ELSE 'accepted'
    END AS verdict,
    CASE
        WHEN fault IS NOT NULL THEN fault
        WHEN problem IS NOT NULL THEN dataset_type || ': ' || problem
        WHEN known_checksum = checksum THEN NULL
        WHEN known_checksum <> checksum
            THEN dataset_type || ': registered with checksum ' || known_checksum || ', this one has ' || checksum
        WHEN first_checksum <> checksum
            THEN dataset_type || ': twice in one batch, with checksums ' || first_checksum || ' and ' || checksum
        WHEN unknown_type THEN 'dataset type ' || dataset_type || ' is not known at ' || getvariable('site')
        WHEN what IS NOT NULL THEN what || ' is not known at ' || getvariable('site')
    END AS reason
FROM compared;
