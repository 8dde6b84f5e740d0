-- state: where each quantum of the campaign stands. An operator's retry ('reset') starts its count anew.
-- inputs: quantum, attempt; $campaign; $attempts
-- grain: one row per quantum
WITH since AS (
    SELECT quantum_id, max(noted_at) AS reset_at FROM attempt WHERE campaign = $campaign AND state = 'reset' GROUP BY quantum_id
), counted AS (
    SELECT a.quantum_id,
           count(*) FILTER (WHERE a.state = 'failed') AS tried,
           bool_or(a.state IN ('succeeded', 'no_work')) AS done,
           arg_max(a.state, {'noted_at': a.noted_at, 'attempt': a.attempt}) AS latest,
           arg_max(a.reason, {'noted_at': a.noted_at, 'attempt': a.attempt}) AS reason
    FROM attempt a LEFT JOIN since s USING (quantum_id)
    WHERE a.campaign = $campaign AND (s.reset_at IS NULL OR a.noted_at > s.reset_at)
    GROUP BY a.quantum_id
), state AS (
    SELECT q.*, coalesce(c.tried, 0)::INTEGER AS tried, coalesce(c.done, false) AS done,
           NOT coalesce(c.done, false) AND (coalesce(c.tried, 0) >= $attempts OR coalesce(c.latest = 'blocked', false)) AS failed,
           c.latest, c.reason
    FROM quantum q LEFT JOIN counted c USING (quantum_id)
    WHERE q.campaign = $campaign
)
