-- parked_now: the latest verdict on everything that ever had to wait or was refused.
-- Inputs: parked (append-only events); transfer, manifest, dataset: what came by a rule and waits, the transfer log alone says.
-- Grain: one row per (site, dataset_id, content): two contents may claim one id.
WITH arrival AS (
    SELECT site, rule_id, path, state, reason, noted_at
    FROM (
        FROM transfer SEMI JOIN (SELECT rule_id, path FROM transfer WHERE state = 'parked') USING (rule_id, path)
        QUALIFY last_event(transfer)
    )
    WHERE state = 'parked'
),
event AS (
    FROM parked
    UNION ALL BY NAME
    SELECT
        a.site, m.dataset_id, m.dataset_type, m.record ->> 'run' AS run, unnest(data_id(m.record)),
        a.state, a.reason, m.record, a.noted_at
    FROM arrival a
    JOIN manifest m USING (site, rule_id, path)
    ANTI JOIN (FROM dataset SEMI JOIN arrival USING (site, path)) d ON d.site = a.site AND d.dataset_id = m.dataset_id
)
SELECT *
FROM event
QUALIFY row_number() OVER (
    PARTITION BY site, dataset_id, record ->> 'checksum'
    ORDER BY noted_at DESC, list_position(['parked', 'rejected', 'admitted', 'resolved'], state) DESC
) = 1
