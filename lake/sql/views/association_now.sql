-- association_now: present members of TAGGED collections.
-- Inputs: association (append-only; removed = true takes a member out). Grain: one row per (site, collection, dataset_id).
SELECT * EXCLUDE (removed)
FROM (
    SELECT *
    FROM association
    QUALIFY row_number() OVER (PARTITION BY site, collection, dataset_id ORDER BY noted_at DESC) = 1
)
WHERE NOT removed
