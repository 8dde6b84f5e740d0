-- Makes: the datasets in the files that a stretch of the transfer log leaves as verified.
-- Inputs: transfer (only the rows of that stretch), manifest. Grain: one row per (rule, dataset, path).
SELECT
    t.rule_id, t.path, t.source, t.destination, t.attempt, t.bytes,
    m.dataset_id, m.record
FROM (FROM transfer QUALIFY last_event(transfer)) t
JOIN manifest m ON m.rule_id = t.rule_id AND m.path = t.path
WHERE t.state = 'verified'
ORDER BY t.path, t.rule_id, m.dataset_id
