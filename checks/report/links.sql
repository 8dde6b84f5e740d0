-- links: what moved between sites.
-- inputs: rule_progress; $campaign
-- grain: one row per phase, source and destination. rate: bytes per second over the rules' own times
SELECT
    split_part(name, '/', 1) AS phase, source, destination,
    count(*) AS rules, count(*) FILTER (state = 'OK') AS ok,
    sum(files)::BIGINT AS files, sum(datasets)::BIGINT AS datasets, sum(bytes)::BIGINT AS bytes,
    sum(ingested)::BIGINT AS ingested, sum(failed)::BIGINT AS failed, sum(parked)::BIGINT AS parked,
    sum(bytes) / sum(bytes / rate) FILTER (rate > 0 AND bytes > 0) AS rate,
    min(reason) FILTER (state <> 'OK') AS reason
FROM rule_progress
WHERE campaign = $campaign
GROUP BY 1, 2, 3
ORDER BY 2, 3, 1
