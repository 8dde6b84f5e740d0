-- made_from: how many events a site's ledger of each dataset type depends on, besides its registered and expected
-- rows, and the events that name the type.
-- inputs: expected_sum, manifest_all, parked_all, certification_all, tombstone_all, rule, transfer_all, collection,
--         archive_copy_all, attempt_count (task, events)
-- grain: one row per (dataset_type, what, which); dataset_type is NULL for what concerns all types. The tables are
--        append-only: the same count is the same rows.
WITH moved AS (
    SELECT dataset_type, rule_id, count(*) AS events FROM manifest_all GROUP BY ALL
),
each_rule AS (
    SELECT rule_id, count(*) AS events FROM rule GROUP BY rule_id
),
each_transfer AS (
    SELECT rule_id, count(*) AS events FROM transfer_all GROUP BY rule_id
)
SELECT s.dataset_type, 'attempt' AS what, s.task AS which, a.events
FROM (SELECT DISTINCT dataset_type, task FROM expected_sum) s JOIN attempt_count a USING (task)
UNION ALL
SELECT dataset_type, 'manifest', rule_id, events FROM moved
UNION ALL
SELECT m.dataset_type, 'rule', rule_id, r.events FROM moved m JOIN each_rule r USING (rule_id)
UNION ALL
SELECT m.dataset_type, 'transfer', rule_id, t.events FROM moved m JOIN each_transfer t USING (rule_id)
UNION ALL
SELECT dataset_type, 'parked', '', count(*) FROM parked_all GROUP BY dataset_type
UNION ALL
SELECT dataset_type, 'certification', '', count(*) FROM certification_all GROUP BY dataset_type
UNION ALL
SELECT dataset_type, 'tombstone', '', count(*) FROM tombstone_all GROUP BY dataset_type
UNION ALL
SELECT dataset_type, 'archive', concat_ws(' ', site, bundle_id, location), count(*) FROM archive_copy_all GROUP BY ALL
UNION ALL
SELECT NULL, 'collection', '', count(*) FROM collection
ORDER BY ALL
