-- made_from: how many events a site's ledger of one dataset type depends on, besides its registered and expected
-- rows, and the events that name the type.
-- inputs: e, manifest_all, rule, transfer_all, collection, attempt_count (task, events); $dataset_type
-- grain: one row per (what, which). The tables are append-only: the same count is the same rows.
SELECT 'attempt' AS what, task AS which, events FROM attempt_count SEMI JOIN (SELECT DISTINCT task FROM e) USING (task)
UNION ALL
SELECT 'manifest', rule_id, count(*) FROM manifest_all WHERE dataset_type = $dataset_type GROUP BY rule_id
UNION ALL
SELECT 'rule', rule_id, count(*) FROM rule
SEMI JOIN (SELECT rule_id FROM manifest_all WHERE dataset_type = $dataset_type) USING (rule_id) GROUP BY rule_id
UNION ALL
SELECT 'transfer', rule_id, count(*) FROM transfer_all
SEMI JOIN (SELECT rule_id FROM manifest_all WHERE dataset_type = $dataset_type) USING (rule_id) GROUP BY rule_id
UNION ALL
SELECT 'collection', '', count(*) FROM collection
ORDER BY what, which
