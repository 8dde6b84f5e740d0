-- ledger: expected against present, and what explains the difference.
-- inputs: tally (all sites: site, step, dataset_type, state, datasets, bytes, in_archive, reason), stray (site, step,
--         dataset_type: orphan files), decision (site, step, accepted), step_order
-- grain: one row per site, step, dataset type. expected counts what was asked for; unexpected and orphan come on top;
--        in_archive counts those that are registered here and in the archive too.
-- reconciled: nothing but present, archived, no work found, and failures that an operator or the tolerance accepted
WITH counted AS (
    SELECT
        site, step, dataset_type,
        coalesce(sum(datasets) FILTER (state <> 'unexpected'), 0)     AS expected,
        coalesce(sum(datasets) FILTER (state = 'visible'), 0)         AS visible,
        coalesce(sum(datasets) FILTER (state = 'shadowed'), 0)        AS shadowed,
        coalesce(sum(datasets) FILTER (state = 'predicted_only'), 0)  AS predicted_only,
        coalesce(sum(datasets) FILTER (state = 'unsuccessful'), 0)    AS unsuccessful,
        coalesce(sum(datasets) FILTER (state = 'cursed'), 0)          AS cursed,
        coalesce(sum(datasets) FILTER (state = 'archived'), 0)        AS archived,
        coalesce(sum(datasets) FILTER (state = 'lost'), 0)            AS lost,
        coalesce(sum(datasets) FILTER (state = 'damaged'), 0)         AS damaged,
        coalesce(sum(datasets) FILTER (state = 'in_transit'), 0)      AS in_transit,
        coalesce(sum(datasets) FILTER (state = 'parked'), 0)          AS parked,
        coalesce(sum(datasets) FILTER (state = 'rejected'), 0)        AS rejected,
        coalesce(sum(datasets) FILTER (state = 'waiting'), 0)         AS waiting,
        coalesce(sum(datasets) FILTER (state = 'unexpected'), 0)      AS unexpected,
        0                                                             AS orphan,
        coalesce(sum(in_archive), 0)                                  AS in_archive,
        coalesce(sum(bytes), 0)                                       AS bytes,
        min(reason) FILTER (state NOT IN ('visible', 'predicted_only', 'archived', 'waiting')) AS reason
    FROM tally
    GROUP BY site, step, dataset_type
    UNION ALL
    SELECT site, step, dataset_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, count(*), 0, 0, min(reason)
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
