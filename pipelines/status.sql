-- status: counts of quanta per step at one site, and the time that all their attempts took.
-- inputs: state (runner.sql), attempt; $campaign, $attempts
-- grain: one row per step
, spent AS (
    SELECT step, sum(seconds) AS seconds FROM attempt WHERE campaign = $campaign GROUP BY step
)
SELECT s.step, count(*) AS quanta,
       count(*) FILTER (WHERE s.done AND s.latest <> 'no_work') AS succeeded,
       count(*) FILTER (WHERE s.done AND s.latest = 'no_work') AS no_work,
       count(*) FILTER (WHERE s.failed AND s.latest <> 'blocked') AS failed,
       count(*) FILTER (WHERE s.failed AND s.latest = 'blocked') AS blocked,
       count(*) FILTER (WHERE NOT s.done AND NOT s.failed) AS waiting,
       round(any_value(p.seconds), 1) AS cpu_seconds
FROM state s LEFT JOIN spent p USING (step)
GROUP BY s.step ORDER BY s.step
