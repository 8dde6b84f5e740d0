-- Makes: events for parked of what came by a rule and waits: of that the transfer log alone says so.
-- Inputs: transfer, manifest of one site. Grain: one row per (rule, dataset, path).
SELECT m.dataset_id, m.dataset_type, m.record ->> 'run' AS run, unnest(data_id(m.record)), t.state, t.reason, m.record, t.noted_at
FROM (
    FROM transfer SEMI JOIN (SELECT rule_id, path FROM transfer WHERE state = 'parked') USING (rule_id, path)
    QUALIFY last_event(transfer)
) t
JOIN manifest m USING (rule_id, path)
WHERE t.state = 'parked'
