-- quantum_state: every predicted quantum with its latest attempt; state is waiting where none was made.
-- Inputs: quantum, attempt (append-only events). Grain: one row per (site, quantum_id).
WITH latest AS (
    SELECT *
    FROM attempt
    QUALIFY row_number() OVER (
        PARTITION BY site, quantum_id
        ORDER BY attempt DESC, noted_at DESC,
                 list_position(['blocked', 'started', 'failed', 'no_work', 'succeeded'], state) DESC
    ) = 1
)
SELECT
    q.*,
    coalesce(a.state, 'waiting') AS state,
    coalesce(a.attempt, 0)       AS attempt,
    a.reason, a.seconds, a.peak_memory_mb, a.host, a.software,
    a.noted_at                         AS state_at
FROM quantum q
LEFT JOIN latest a ON a.site = q.site AND a.quantum_id = q.quantum_id
