-- Makes: what rules still want: manifest rows whose dataset the destination's registry does not hold with that content,
-- with what is known about each.
-- Inputs: manifest, dataset, transfer_now, parked_now of the destination (the connection's home).
-- Grain: one row per (rule, dataset, path); parameters: rules. present is the checksum registered under the same id,
-- occupied the checksum of another file registered at the same path, parked what an arrived dataset waits for.
WITH missing AS (
    SELECT m.*, d.checksum AS present
    FROM manifest m
    LEFT JOIN dataset d ON d.dataset_id = m.dataset_id
    WHERE m.rule_id IN (SELECT unnest($rules::VARCHAR[]))
      AND (d.dataset_id IS NULL OR NOT contains(m.record, d.checksum))
),
registered AS (
    SELECT path, min(file_checksum) AS file_checksum
    FROM dataset
    WHERE path IN (SELECT path FROM missing)
    GROUP BY path
)
SELECT
    m.rule_id, m.dataset_id, m.dataset_type, m.path, m.file_bytes, m.file_checksum, m.record,
    m.present,
    CASE WHEN r.file_checksum <> m.file_checksum THEN r.file_checksum END AS occupied,
    t.state                 AS state,
    coalesce(t.attempt, 0)  AS attempt,
    t.reason                AS reason,
    p.reason                AS parked
FROM missing m
LEFT JOIN registered r ON r.path = m.path
LEFT JOIN transfer_now t ON t.rule_id = m.rule_id AND t.path = m.path
LEFT JOIN parked_now p
    ON p.state = 'parked' AND p.dataset_id = m.dataset_id AND p.record ->> 'checksum' = m.record ->> 'checksum'
ORDER BY m.path, m.rule_id, m.dataset_id
