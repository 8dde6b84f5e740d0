-- status: counts of quanta per step at one site
-- inputs: state (runner.sql), attempt; $campaign, $attempts
-- grain: one row per step
, last AS (
    SELECT quantum_id, arg_max(state, "at") AS latest, max(seconds) AS seconds
    FROM attempt WHERE campaign = $campaign GROUP BY quantum_id
)
SELECT s.step, count(*) AS quanta,
       count(*) FILTER (WHERE s.done AND l.latest <> 'no_work') AS succeeded,
       count(*) FILTER (WHERE l.latest = 'no_work') AS no_work,
       count(*) FILTER (WHERE s.failed AND l.latest <> 'blocked') AS failed,
       count(*) FILTER (WHERE l.latest = 'blocked') AS blocked,
       count(*) FILTER (WHERE NOT s.done AND NOT s.failed) AS waiting,
       round(sum(l.seconds), 1) AS cpu_seconds
FROM state s LEFT JOIN last l USING (quantum_id)
GROUP BY s.step ORDER BY s.step
