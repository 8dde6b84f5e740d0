-- Makes: how the links to a site have served lately: failures, and bytes per second of the copies that went well.
-- Inputs: transfer of the destination. Grain: one row per source; of the last day of the log's own time.
SELECT
    source,
    count(*) FILTER (state = 'failed')                                           AS failures,
    sum(bytes) FILTER (state = 'verified') / sum(seconds) FILTER (state = 'verified' AND seconds > 0) AS rate
FROM transfer
WHERE state IN ('failed', 'verified') AND noted_at > (SELECT max(noted_at) FROM transfer) - INTERVAL 1 DAY
GROUP BY source
