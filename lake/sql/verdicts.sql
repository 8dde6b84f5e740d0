-- Makes: judged, the verdict (accepted, present, parked, rejected) and its reason for every given dataset.
-- Inputs: identified, known, unknown (see identified.sql), storage (path, file_bytes, problem: files that are not as claimed);
--         variable 'site'.
-- Grain: one row per given row. nth counts the rows of one id: only the first can be accepted.
CREATE OR REPLACE TEMP TABLE judged AS
WITH repeated AS (
    SELECT
        ordinal,
        row_number() OVER same_id AS nth,
        first_value(checksum) OVER same_id AS first_checksum
    FROM identified
    SEMI JOIN (SELECT dataset_id FROM identified GROUP BY dataset_id HAVING count(*) > 1) USING (dataset_id)
    WINDOW same_id AS (PARTITION BY dataset_id ORDER BY ordinal)
),
compared AS (
    SELECT
        i.*, k.known_checksum, k.known_path, x.problem, u.what,
        coalesce(r.nth, 1) AS nth,
        coalesce(r.first_checksum, i.checksum) AS first_checksum
    FROM identified i
    LEFT JOIN repeated r USING (ordinal)
    LEFT JOIN unknown u USING (ordinal)
    LEFT JOIN storage x ON x.path = i.path AND x.file_bytes = i.file_bytes
    LEFT JOIN known k ON k.dataset_id = i.dataset_id
)
SELECT
    ordinal, dataset_id, nth, known_path, checksum,
    CASE
        WHEN missing <> '' OR computed_id <> dataset_id OR problem IS NOT NULL THEN 'rejected'
        WHEN known_checksum = checksum THEN 'present'
        WHEN known_checksum <> checksum OR first_checksum <> checksum THEN 'rejected'
        WHEN computed_id IS NULL OR what IS NOT NULL THEN 'parked'
        WHEN nth > 1 THEN 'present'
        ELSE 'accepted'
    END AS verdict,
    CASE
        WHEN missing <> '' THEN dataset_type || ': no value for ' || missing
        WHEN computed_id <> dataset_id THEN dataset_type || ': dataset_id is not that of its data ID, ' || computed_id
        WHEN problem IS NOT NULL THEN dataset_type || ': ' || problem
        WHEN known_checksum = checksum THEN NULL
        WHEN known_checksum <> checksum
            THEN dataset_type || ': registered with checksum ' || known_checksum || ', this one has ' || checksum
        WHEN first_checksum <> checksum
            THEN dataset_type || ': twice in one batch, with checksums ' || first_checksum || ' and ' || checksum
        WHEN computed_id IS NULL THEN 'dataset type ' || dataset_type || ' is not known at ' || getvariable('site')
        WHEN what IS NOT NULL THEN what || ' is not known at ' || getvariable('site')
    END AS reason
FROM compared;
