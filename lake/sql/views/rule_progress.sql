-- rule_progress: how far every rule is, by files: what is expected, where each file stands, and how fast files come.
-- Inputs: rule, manifest, transfer, dataset. Grain: one row per (site, rule_id); site is the destination's lake.
-- A file counts as ingested when the destination's registry holds all that the manifest expects in it, whatever the log says.
-- rate is bytes verified per second between the first and the last verified file of the rule's latest activity
-- (a pause of more than a minute starts a new one); eta is the seconds left at that rate, null where no rate is known.
WITH current_rule AS (
    SELECT * FROM rule QUALIFY row_number() OVER (PARTITION BY site, rule_id ORDER BY revision DESC, noted_at DESC) = 1
),
wanted AS (
    SELECT
        m.site, m.rule_id, m.path,
        max(m.file_bytes)                          AS bytes,
        count(*)                                   AS datasets,
        count(*) = count(d.dataset_id)             AS complete
    FROM manifest m
    LEFT JOIN dataset d ON d.site = m.site AND d.dataset_id = m.dataset_id
    GROUP BY m.site, m.rule_id, m.path
),
current_file AS (
    SELECT site, rule_id, path, state, reason FROM transfer QUALIFY last_event(transfer)
),
standing AS (
    SELECT
        w.*, f.reason,
        CASE
            WHEN w.complete THEN 'ingested'
            WHEN f.state IS NULL OR f.state IN ('ingested', 'deleted') THEN 'queued'
            ELSE f.state
        END AS state
    FROM wanted w
    LEFT JOIN current_file f ON f.site = w.site AND f.rule_id = w.rule_id AND f.path = w.path
),
files AS (
    SELECT
        site, rule_id,
        count(*)                                                               AS files,
        sum(bytes)                                                             AS bytes,
        sum(datasets)                                                          AS datasets,
        count(*) FILTER (state = 'queued')                                     AS queued,
        count(*) FILTER (state IN ('copying', 'arrived'))                      AS copying,
        count(*) FILTER (state = 'verified')                                   AS verified,
        count(*) FILTER (state = 'ingested')                                   AS ingested,
        count(*) FILTER (state = 'parked')                                     AS parked,
        count(*) FILTER (state = 'failed')                                     AS failed,
        coalesce(sum(bytes) FILTER (state IN ('verified', 'ingested', 'parked')), 0) AS bytes_done,
        min(reason) FILTER (state IN ('failed', 'parked'))                     AS problem
    FROM standing
    GROUP BY site, rule_id
),
landed AS (
    SELECT
        site, rule_id, noted_at, bytes, coalesce(seconds, 0) AS seconds,
        noted_at - lag(noted_at) OVER (PARTITION BY site, rule_id ORDER BY noted_at) > INTERVAL 1 MINUTE AS pause
    FROM transfer
    WHERE state = 'verified'
),
activity AS (
    SELECT *, sum(coalesce(pause, false)::INT) OVER (PARTITION BY site, rule_id ORDER BY noted_at) AS spell
    FROM landed
),
speed AS (
    SELECT
        site, rule_id,
        sum(bytes) / greatest(epoch(max(noted_at)) - epoch(min(noted_at)) + max_by(seconds, -epoch(noted_at)), 1e-3) AS rate,
        max(noted_at) AS last_at
    FROM activity
    GROUP BY site, rule_id, spell
    QUALIFY row_number() OVER (PARTITION BY site, rule_id ORDER BY spell DESC) = 1
)
SELECT
    r.site, r.rule_id, r.campaign, r.name, r.source, r.destination, r.state,
    coalesce(f.files, 0)::BIGINT      AS files,
    coalesce(f.datasets, 0)::BIGINT   AS datasets,
    coalesce(f.bytes, 0)::BIGINT      AS bytes,
    coalesce(f.queued, 0)::BIGINT     AS queued,
    coalesce(f.copying, 0)::BIGINT    AS copying,
    coalesce(f.verified, 0)::BIGINT   AS verified,
    coalesce(f.ingested, 0)::BIGINT   AS ingested,
    coalesce(f.parked, 0)::BIGINT     AS parked,
    coalesce(f.failed, 0)::BIGINT     AS failed,
    coalesce(f.bytes_done, 0)::BIGINT AS bytes_done,
    s.rate,
    CASE WHEN r.state = 'EXPIRED' THEN NULL WHEN coalesce(f.bytes, 0) = coalesce(f.bytes_done, 0) THEN 0 ELSE (f.bytes - f.bytes_done) / s.rate END AS eta,
    coalesce(r.reason, f.problem)     AS reason,
    s.last_at
FROM current_rule r
LEFT JOIN files f ON f.site = r.site AND f.rule_id = r.rule_id
LEFT JOIN speed s ON s.site = r.site AND s.rule_id = r.rule_id
