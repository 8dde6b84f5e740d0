-- Makes: what a verified file becomes by the verdicts on its datasets, for each rule that wanted it: ingested; parked while one
-- of its datasets waits; failed when one was rejected.
-- Inputs: verified (see verified_records), judged (path, dataset_id, verdict, reason).
-- Grain: one row per (rule, path). unclaimed: no dataset of the file was accepted or waits, so that perhaps nothing needs it.
SELECT
    v.rule_id, v.path, v.source, v.destination,
    CASE
        WHEN bool_or(j.verdict = 'rejected') THEN 'failed'
        WHEN bool_or(j.verdict = 'parked') THEN 'parked'
        ELSE 'ingested'
    END AS state,
    v.attempt, v.bytes,
    coalesce(
        min(j.reason) FILTER (j.verdict = 'rejected'),
        min(j.reason) FILTER (j.verdict = 'parked')
    ) AS reason,
    NOT bool_or(j.verdict IN ('accepted', 'parked')) AS unclaimed
FROM verified v
JOIN judged j ON j.path = v.path AND j.dataset_id = v.dataset_id
GROUP BY v.rule_id, v.path, v.source, v.destination, v.attempt, v.bytes
ORDER BY v.path, v.rule_id
