-- decisions: how many quanta of each step failed at a site, and whether an operator accepted at least as many.
-- inputs: quantum, attempt of the site; step (events, central site); $campaign, $site
-- grain: one row per step
WITH reset AS (
    SELECT quantum_id, max(noted_at) AS noted_at FROM attempt WHERE campaign = $campaign AND state = 'reset' GROUP BY quantum_id
),
outcome AS (
    SELECT a.quantum_id, bool_or(a.state IN ('succeeded', 'no_work')) AS done,
           bool_or(a.state IN ('failed', 'blocked')) AS failed
    FROM attempt a LEFT JOIN reset r USING (quantum_id)
    WHERE a.campaign = $campaign AND (r.noted_at IS NULL OR a.noted_at > r.noted_at)
    GROUP BY a.quantum_id
),
counted AS (
    SELECT q.step, count(*) AS quanta, count(*) FILTER (o.failed AND NOT o.done) AS failed
    FROM quantum q LEFT JOIN outcome o USING (quantum_id)
    WHERE q.campaign = $campaign
    GROUP BY q.step
),
latest AS (
    FROM step WHERE campaign = $campaign AND site = $site
    QUALIFY row_number() OVER (PARTITION BY step ORDER BY noted_at DESC) = 1
)
SELECT c.step, c.quanta, c.failed, coalesce(l.state = 'accepted' AND coalesce(l.failed, 0) >= c.failed, false) AS accepted
FROM counted c LEFT JOIN latest l USING (step)
ORDER BY c.step
