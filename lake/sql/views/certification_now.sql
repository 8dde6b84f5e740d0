-- certification_now: the ranges for which calibration datasets are valid now.
-- Inputs: certification (append-only events). Grain: one row per (site, collection, dataset_id, valid_begin, valid_end).
SELECT * EXCLUDE (removed, noted_at)
FROM (
    SELECT *
    FROM certification
    QUALIFY row_number() OVER (
        PARTITION BY site, collection, dataset_id, valid_begin, valid_end ORDER BY noted_at DESC NULLS LAST
    ) = 1
)
WHERE removed IS NOT TRUE
