-- Makes: judged, the verdict (present, parked, rejected) and its reason for every given dataset that is not simply accepted.
-- Inputs: given (ordinal, the columns of dataset, fault, unknown_type: see identified.sql), known and repeated (see their files),
--         unknown (ordinal, what: has no record here), storage (path, file_bytes, problem: files that are not as claimed); $site is replaced by a literal.
-- Grain: one row per such row of given.
CREATE OR REPLACE TEMP TABLE judged AS
WITH compared AS (
    SELECT
        g.ordinal, g.dataset_id, g.dataset_type, g.checksum, g.fault, g.unknown_type, u.what, x.problem, k.known_checksum, k.known_path,
        coalesce(r.nth, 1) AS nth,
        coalesce(r.first_checksum, g.checksum) AS first_checksum
    FROM given g
    LEFT JOIN repeated r ON r.ordinal = g.ordinal
    LEFT JOIN unknown u ON u.ordinal = g.ordinal
    LEFT JOIN storage x ON x.path = g.path AND x.file_bytes = g.file_bytes
    LEFT JOIN known k ON k.dataset_id = g.dataset_id
    WHERE r.ordinal IS NOT NULL OR u.ordinal IS NOT NULL OR x.path IS NOT NULL OR k.dataset_id IS NOT NULL
       OR g.fault IS NOT NULL OR g.unknown_type
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
        WHEN unknown_type THEN 'dataset type ' || dataset_type || ' is not known at ' || $site
        WHEN what IS NOT NULL THEN what || ' is not known at ' || $site
    END AS reason
FROM compared
