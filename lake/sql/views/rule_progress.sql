-- rule_progress: how far every rule is, by files: what is expected, where each file stands, and how fast files come.
-- Inputs: rule, manifest, transfer. Grain: one row per (site, rule_id); site is the destination's lake.
-- rate is bytes verified per second between the first and the last verified file of the rule's latest activity
-- (a pause of more than a minute starts a new one); eta is the seconds left at that rate, null where no rate is known.
WITH current_rule AS (
    SELECT * FROM rule QUALIFY row_number() OVER (PARTITION BY site, rule_id ORDER BY "at" DESC) = 1
),
wanted AS (
    SELECT site, rule_id, path, max(file_bytes) AS bytes, count(*) AS datasets
    FROM manifest
    GROUP BY site, rule_id, path
),
current_file AS (
    SELECT site, rule_id, path, state, reason
    FROM transfer
    QUALIFY row_number() OVER (
        PARTITION BY site, rule_id, path
        ORDER BY "at" DESC, attempt DESC,
                 list_position(['queued', 'copying', 'arrived', 'verified', 'failed', 'parked', 'ingested'], state) DESC
    ) = 1
),
files AS (
    SELECT
        w.site, w.rule_id,
        count(*)                                                            AS files,
        sum(w.bytes)                                                        AS bytes,
        sum(w.datasets)                                                     AS datasets,
        count(*) FILTER (coalesce(f.state, 'queued') = 'queued')            AS queued,
        count(*) FILTER (f.state IN ('copying', 'arrived'))                 AS copying,
        count(*) FILTER (f.state = 'verified')                              AS verified,
        count(*) FILTER (f.state = 'ingested')                              AS ingested,
        count(*) FILTER (f.state = 'parked')                                AS parked,
        count(*) FILTER (f.state = 'failed')                                AS failed,
        coalesce(sum(w.bytes) FILTER (f.state IN ('verified', 'ingested', 'parked')), 0) AS bytes_done,
        min(f.reason) FILTER (f.state IN ('failed', 'parked'))              AS problem
    FROM wanted w
    LEFT JOIN current_file f ON f.site = w.site AND f.rule_id = w.rule_id AND f.path = w.path
    GROUP BY w.site, w.rule_id
),
landed AS (
    SELECT
        site, rule_id, "at", bytes, coalesce(seconds, 0) AS seconds,
        "at" - lag("at") OVER (PARTITION BY site, rule_id ORDER BY "at") > INTERVAL 1 MINUTE AS pause
    FROM transfer
    WHERE state = 'verified'
),
activity AS (
    SELECT *, sum(coalesce(pause, false)::INT) OVER (PARTITION BY site, rule_id ORDER BY "at") AS spell
    FROM landed
),
speed AS (
    SELECT
        site, rule_id,
        sum(bytes) / greatest(epoch(max("at")) - epoch(min("at")) + max_by(seconds, -epoch("at")), 1e-3) AS rate,
        max("at") AS last_at
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
    CASE WHEN coalesce(f.bytes, 0) = coalesce(f.bytes_done, 0) THEN 0 ELSE (f.bytes - f.bytes_done) / s.rate END AS eta,
    coalesce(r.reason, f.problem)     AS reason,
    s.last_at
FROM current_rule r
LEFT JOIN files f ON f.site = r.site AND f.rule_id = r.rule_id
LEFT JOIN speed s ON s.site = r.site AND s.rule_id = r.rule_id
