-- Makes: the datasets in the files that a stretch of the transfer log reports as verified.
-- Inputs: transfer (only the rows of that stretch), manifest. Grain: one row per (rule, dataset, path).
SELECT
    t.rule_id, t.path, t.source, t.destination, t.attempt, t.bytes,
    m.dataset_id, m.record
FROM (
    SELECT rule_id, path, arg_max(source, "at") AS source, any_value(destination) AS destination,
           max(attempt) AS attempt, max(bytes) AS bytes
    FROM transfer
    WHERE state = 'verified'
    GROUP BY rule_id, path
) t
JOIN manifest m ON m.rule_id = t.rule_id AND m.path = t.path
ORDER BY t.path, t.rule_id, m.dataset_id
