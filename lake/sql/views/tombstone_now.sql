-- tombstone_now: the latest event of every dataset that was ever taken out of the registry.
-- Inputs: tombstone (append-only events). Grain: one row per (site, dataset_id).
SELECT *
FROM tombstone
QUALIFY row_number() OVER (PARTITION BY site, dataset_id ORDER BY noted_at DESC) = 1
