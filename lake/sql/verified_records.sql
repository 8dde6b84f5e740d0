-- Makes: the datasets in the files that a stretch of the transfer log leaves as verified.
-- Inputs: transfer (only the rows of that stretch), manifest. Grain: one row per (rule, dataset, path).
SELECT
    t.rule_id, t.path, t.source, t.destination, t.attempt, t.bytes,
    m.dataset_id, m.record
FROM (
    SELECT *
    FROM transfer
    QUALIFY row_number() OVER (
        PARTITION BY rule_id, path
        ORDER BY attempt DESC,
                 list_position(['queued', 'copying', 'arrived', 'verified', 'parked', 'failed', 'ingested', 'deleted'], state) DESC,
                 noted_at DESC
    ) = 1
) t
JOIN manifest m ON m.rule_id = t.rule_id AND m.path = t.path
WHERE t.state = 'verified'
ORDER BY t.path, t.rule_id, m.dataset_id
