-- Makes: judged, every given dataset with its verdict (accepted, present, parked, rejected) and the reason.
-- Inputs: given (ordinal and the columns of dataset), dataset_names, known (dataset_id, checksum, path: registered rows with these
--         ids), storage (path, file_bytes, problem: files that are not as claimed), types, and the dimension tables; macro uuid5; variable 'site'.
-- Grain: one row per row of given. nth counts the rows of one id: only the first can be accepted.
CREATE OR REPLACE TEMP TABLE judged AS
WITH counted AS (
    SELECT
        *,
        row_number() OVER same_id AS nth,
        first_value(checksum) OVER same_id AS first_checksum
    FROM given
    WINDOW same_id AS (PARTITION BY dataset_id ORDER BY ordinal)
),
compared AS (
    SELECT
        g.*,
        n.missing,
        uuid5(n.name) AS computed_id,
        k.checksum AS known_checksum,
        k.path AS known_path,
        x.problem,
        t.dataset_type IS NULL AS unknown_type,
        CASE
            WHEN g.instrument IS NOT NULL AND i.instrument IS NULL THEN 'instrument ' || g.instrument
            WHEN g.exposure IS NOT NULL AND e.exposure IS NULL THEN 'exposure ' || g.exposure
            WHEN g.visit IS NOT NULL AND v.visit IS NULL THEN 'visit ' || g.visit
            WHEN g.detector IS NOT NULL AND d.detector IS NULL THEN 'detector ' || g.detector
            WHEN g.physical_filter IS NOT NULL AND f.physical_filter IS NULL THEN 'physical_filter ' || g.physical_filter
            WHEN g.skymap IS NOT NULL AND s.skymap IS NULL THEN 'skymap ' || g.skymap
            WHEN g.tract IS NOT NULL AND a.tract IS NULL THEN 'tract ' || g.tract
            WHEN g.patch IS NOT NULL AND p.patch IS NULL THEN 'patch ' || g.patch || ' of tract ' || g.tract
        END AS unknown_dimension
    FROM counted g
    LEFT JOIN types t USING (dataset_type)
    LEFT JOIN dataset_names n USING (ordinal)
    LEFT JOIN storage x ON x.path = g.path AND x.file_bytes = g.file_bytes
    LEFT JOIN known k ON k.dataset_id = g.dataset_id
    LEFT JOIN (SELECT DISTINCT instrument FROM instrument) i ON i.instrument = g.instrument
    LEFT JOIN (SELECT DISTINCT instrument, exposure FROM exposure) e
        ON e.instrument = g.instrument AND e.exposure = g.exposure
    LEFT JOIN (SELECT DISTINCT instrument, visit FROM visit) v ON v.instrument = g.instrument AND v.visit = g.visit
    LEFT JOIN (SELECT DISTINCT instrument, detector FROM detector) d
        ON d.instrument = g.instrument AND d.detector = g.detector
    LEFT JOIN (SELECT DISTINCT instrument, physical_filter FROM physical_filter) f
        ON f.instrument = g.instrument AND f.physical_filter = g.physical_filter
    LEFT JOIN (SELECT DISTINCT skymap FROM skymap) s ON s.skymap = g.skymap
    LEFT JOIN (SELECT DISTINCT skymap, tract FROM tract) a ON a.skymap = g.skymap AND a.tract = g.tract
    LEFT JOIN (SELECT DISTINCT skymap, tract, patch FROM patch) p
        ON p.skymap = g.skymap AND p.tract = g.tract AND p.patch = g.patch
)
SELECT
    * EXCLUDE (missing, problem, computed_id, unknown_type, unknown_dimension, first_checksum, known_checksum),
    CASE
        WHEN missing <> '' OR computed_id <> dataset_id OR problem IS NOT NULL THEN 'rejected'
        WHEN known_checksum = checksum THEN 'present'
        WHEN known_checksum <> checksum OR first_checksum <> checksum THEN 'rejected'
        WHEN unknown_type OR unknown_dimension IS NOT NULL THEN 'parked'
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
        WHEN unknown_type THEN 'dataset type ' || dataset_type || ' is not known at ' || getvariable('site')
        WHEN unknown_dimension IS NOT NULL THEN unknown_dimension || ' is not known at ' || getvariable('site')
    END AS reason
FROM compared;
