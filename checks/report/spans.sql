-- spans: when each step ran at each site.
-- inputs: step (events); $campaign
-- grain: one row per stretch of running; begin and end in seconds since the campaign's first event
WITH event AS (
    SELECT step, site, state, noted_at, lead(noted_at) OVER (PARTITION BY step, site ORDER BY noted_at) AS until,
           min(noted_at) OVER () AS first
    FROM step WHERE campaign = $campaign
)
SELECT step, site, epoch(noted_at - first) AS "begin", epoch(until - first) AS "end"
FROM event WHERE state = 'running' AND until IS NOT NULL
ORDER BY "begin", step, site
