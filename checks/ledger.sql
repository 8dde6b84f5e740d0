-- ledger: expected against present, and what explains the difference.
-- inputs: standing (all sites), stray (site, step, dataset_type: orphan files), decision (site, step, accepted), step_order
-- grain: one row per site, step, dataset type. expected counts what was asked for; unexpected and orphan come on top.
-- reconciled: nothing but present, no work found, and failures that an operator or the tolerance accepted
WITH counted AS (
    SELECT
        site, step, dataset_type,
        count(*) FILTER (state <> 'unexpected')     AS expected,
        count(*) FILTER (state = 'visible')         AS visible,
        count(*) FILTER (state = 'shadowed')        AS shadowed,
        count(*) FILTER (state = 'predicted_only')  AS predicted_only,
        count(*) FILTER (state = 'unsuccessful')    AS unsuccessful,
        count(*) FILTER (state = 'cursed')          AS cursed,
        count(*) FILTER (state = 'lost')            AS lost,
        count(*) FILTER (state = 'damaged')         AS damaged,
        count(*) FILTER (state = 'in_transit')      AS in_transit,
        count(*) FILTER (state = 'parked')          AS parked,
        count(*) FILTER (state = 'rejected')        AS rejected,
        count(*) FILTER (state = 'waiting')         AS waiting,
        count(*) FILTER (state = 'unexpected')      AS unexpected,
        0                                           AS orphan,
        coalesce(sum(bytes), 0)::BIGINT             AS bytes,
        min(reason) FILTER (state NOT IN ('visible', 'predicted_only', 'waiting')) AS reason
    FROM standing
    GROUP BY site, step, dataset_type
    UNION ALL
    SELECT site, step, dataset_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, count(*), 0, min(reason)
    FROM stray
    GROUP BY site, step, dataset_type
),
summed AS (
    SELECT site, step, dataset_type, sum(COLUMNS(* EXCLUDE (site, step, dataset_type, reason)))::BIGINT, min(reason) AS reason
    FROM counted
    GROUP BY site, step, dataset_type
)
SELECT
    s.*,
    coalesce(d.accepted, false) AS accepted,
    lost + damaged + in_transit + parked + rejected + waiting + unexpected = 0
        AND (unsuccessful + cursed = 0 OR coalesce(d.accepted, false)) AS reconciled
FROM summed s
LEFT JOIN decision d USING (site, step)
LEFT JOIN step_order o USING (step)
ORDER BY o.position NULLS LAST, s.site, s.dataset_type
