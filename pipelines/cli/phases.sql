-- phases: what moved for what: files and bytes by phase of a campaign and dataset type, and the sum over what the calibration needs.
-- inputs: manifest, rule_now, dataset; $campaign (null: every one), $phases (in order), $calibration (dataset types of step 2c)
-- grain: one row per phase and dataset type, in order of the phases; the last, where there is one, is the total of the calibration.
-- A file that goes to two sites is moved twice. ingested: files of which the destination has everything.
WITH file AS (
    SELECT
        CASE WHEN contains(r.name, '/') THEN split_part(r.name, '/', 1) ELSE 'rule' END AS phase, m.dataset_type, m.site, m.rule_id, m.path,
        max(m.file_bytes) AS bytes, count(*) AS datasets, count(*) = count(d.dataset_id) AS complete
    FROM manifest m
    JOIN rule_now r USING (site, rule_id)
    LEFT JOIN dataset d ON d.site = m.site AND d.dataset_id = m.dataset_id
    WHERE $campaign IS NULL OR r.campaign = $campaign
    GROUP BY ALL
),
summed AS (
    SELECT
        phase, dataset_type, phase <> 'place' AND list_contains($calibration, dataset_type) AS calibration,
        count(*) AS files, count(*) FILTER (complete) AS ingested, sum(datasets)::BIGINT AS datasets, sum(bytes)::BIGINT AS bytes
    FROM file
    GROUP BY ALL
)
SELECT phase, dataset_type, calibration, files, ingested, datasets, bytes
FROM (
    FROM summed
    UNION ALL
    SELECT 'calibration', 'total', true, sum(files)::BIGINT, sum(ingested)::BIGINT, sum(datasets)::BIGINT, sum(bytes)::BIGINT
    FROM summed WHERE calibration HAVING count(*) > 0
)
ORDER BY phase = 'calibration', list_position($phases, phase) NULLS LAST, phase, dataset_type
