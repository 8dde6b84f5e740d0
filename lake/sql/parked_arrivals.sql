-- Makes: events for parked of what came by a rule and waits: of that the transfer log alone says so.
-- Inputs: transfer, manifest of one site. Grain: one row per (rule, dataset, path).
SELECT
    m.dataset_id, m.dataset_type, m.record ->> 'run' AS run,
    m.record ->> 'instrument' AS instrument, (m.record ->> 'exposure')::BIGINT AS exposure, (m.record ->> 'visit')::BIGINT AS visit,
    (m.record ->> 'detector')::INTEGER AS detector, m.record ->> 'physical_filter' AS physical_filter, m.record ->> 'band' AS band,
    (m.record ->> 'day_obs')::INTEGER AS day_obs, m.record ->> 'skymap' AS skymap, (m.record ->> 'tract')::INTEGER AS tract,
    (m.record ->> 'patch')::INTEGER AS patch, t.state, t.reason, m.record, t.noted_at
FROM (
    FROM transfer SEMI JOIN (SELECT rule_id, path FROM transfer WHERE state = 'parked') USING (rule_id, path)
    QUALIFY row_number() OVER (
        PARTITION BY rule_id, path
        ORDER BY attempt DESC,
                 list_position(['queued', 'copying', 'arrived', 'verified', 'parked', 'failed', 'ingested', 'deleted'], state) DESC,
                 noted_at DESC
    ) = 1
) t
JOIN manifest m USING (rule_id, path)
WHERE t.state = 'parked'
