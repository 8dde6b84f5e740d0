-- steps: how every step stands at every site, and what it cost.
-- inputs: step (events), quantum_state; $campaign
-- grain: one row per step and site; wall: seconds between "running" and what followed, cpu: seconds inside quanta
WITH event AS (
    SELECT step, site, state, noted_at, lead(noted_at) OVER (PARTITION BY step, site ORDER BY noted_at) AS until
    FROM step WHERE campaign = $campaign
),
stood AS (
    SELECT step, site, arg_max(state, noted_at) AS state, sum(epoch(until - noted_at)) FILTER (state = 'running') AS wall
    FROM event GROUP BY step, site
),
counted AS (
    SELECT step, site, count(*) AS quanta,
           count(*) FILTER (state = 'succeeded') AS succeeded, count(*) FILTER (state = 'no_work') AS no_work,
           count(*) FILTER (state IN ('failed', 'blocked')) AS failed, count(*) FILTER (state NOT IN
               ('succeeded', 'no_work', 'failed', 'blocked')) AS waiting,
           sum(seconds) AS cpu, max(peak_memory_mb) AS memory_mb
    FROM quantum_state WHERE campaign = $campaign GROUP BY step, site
)
SELECT coalesce(c.step, s.step) AS step, coalesce(c.site, s.site) AS site, coalesce(s.state, 'waiting') AS state,
       s.wall, c.* EXCLUDE (step, site)
FROM counted c FULL JOIN stood s ON s.step = c.step AND s.site = c.site
ORDER BY 1, 2
