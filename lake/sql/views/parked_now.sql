-- parked_now: the latest verdict on everything that ever had to wait or was refused.
-- Inputs: parked (append-only events); transfer, manifest, dataset: what came by a rule and waits, the transfer log alone says.
-- Grain: one row per (site, dataset_id, content): two contents may claim one id.
WITH arrival AS (
    SELECT site, rule_id, path, reason, noted_at
    FROM (
        FROM transfer SEMI JOIN (SELECT site, rule_id, path FROM transfer WHERE state = 'parked') USING (site, rule_id, path)
        QUALIFY row_number() OVER (
            PARTITION BY site, rule_id, path
            ORDER BY attempt DESC,
                     list_position(['queued', 'copying', 'arrived', 'verified', 'parked', 'failed', 'ingested', 'deleted'], state) DESC,
                     noted_at DESC
        ) = 1
    )
    WHERE state = 'parked'
),
event AS (
    FROM parked
    UNION ALL BY NAME
    SELECT
        a.site, m.dataset_id, m.dataset_type, m.record ->> 'run' AS run,
        m.record ->> 'instrument' AS instrument, (m.record ->> 'exposure')::BIGINT AS exposure, (m.record ->> 'visit')::BIGINT AS visit,
        (m.record ->> 'detector')::INTEGER AS detector, m.record ->> 'physical_filter' AS physical_filter, m.record ->> 'band' AS band,
        (m.record ->> 'day_obs')::INTEGER AS day_obs, m.record ->> 'skymap' AS skymap, (m.record ->> 'tract')::INTEGER AS tract,
        (m.record ->> 'patch')::INTEGER AS patch, 'parked' AS state, a.reason, m.record, a.noted_at
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
