-- Makes: files that stand as parked, but whose datasets are all registered by now.
-- Inputs: transfer_now, manifest, dataset of one site. Grain: one row per (rule, path).
SELECT t.rule_id, t.path, t.source, t.destination, t.attempt, t.bytes
FROM transfer_now t
JOIN manifest m ON m.rule_id = t.rule_id AND m.path = t.path
LEFT JOIN dataset d ON d.dataset_id = m.dataset_id
WHERE t.state = 'parked'
GROUP BY ALL
HAVING count(*) FILTER (d.dataset_id IS NULL) = 0
ORDER BY t.rule_id, t.path
