-- decisions: how many quanta of each step failed at a site, and whether an operator accepted at least as many.
-- inputs: quantum of the site; attempt_near (its attempts of these), trouble (quantum_id: that ever failed or were blocked); step
--         (events, central site); $campaign, $site
-- grain: one row per step
WITH troubled AS (
    FROM attempt_near SEMI JOIN trouble USING (quantum_id) WHERE campaign = $campaign
),
reset AS (
    SELECT quantum_id, max(noted_at) AS noted_at FROM troubled WHERE state = 'reset' GROUP BY quantum_id
),
failed AS (
    SELECT a.quantum_id, any_value(a.step) AS step
    FROM troubled a LEFT JOIN reset r USING (quantum_id)
    WHERE r.noted_at IS NULL OR a.noted_at > r.noted_at
    GROUP BY a.quantum_id
    HAVING bool_or(a.state IN ('failed', 'blocked')) AND NOT bool_or(a.state IN ('succeeded', 'no_work'))
),
counted AS (
    SELECT step, q.quanta, coalesce(f.failed, 0) AS failed
    FROM (SELECT step, count(*) AS quanta FROM quantum WHERE campaign = $campaign GROUP BY step) q
    LEFT JOIN (SELECT step, count(*) AS failed FROM failed GROUP BY step) f USING (step)
),
latest AS (
    FROM step WHERE campaign = $campaign AND site = $site
    QUALIFY row_number() OVER (PARTITION BY step ORDER BY noted_at DESC) = 1
)
SELECT c.step, c.quanta, c.failed, coalesce(l.state = 'accepted' AND coalesce(l.failed, 0) >= c.failed, false) AS accepted
FROM counted c LEFT JOIN latest l USING (step)
ORDER BY c.step
