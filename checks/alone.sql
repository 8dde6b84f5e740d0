-- alone: datasets of one type that are only expected (missing) or only registered (extra).
-- inputs: e (expected: dataset_id), d (registered: dataset_id); grain: one row per dataset
SELECT coalesce(e.dataset_id, d.dataset_id) AS dataset_id, d.dataset_id IS NULL AS missing
FROM e FULL JOIN d ON e.dataset_id = d.dataset_id
WHERE e.dataset_id IS NULL OR d.dataset_id IS NULL
