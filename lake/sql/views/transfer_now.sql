-- transfer_now: the latest state of every file that a rule moves.
-- Inputs: transfer (append-only events). Grain: one row per (site, rule_id, path); site is the destination's lake.
-- The attempt, then the state's rank order a file's events, whatever the clocks said, and however late an event was written.
SELECT *
FROM transfer
QUALIFY row_number() OVER (
    PARTITION BY site, rule_id, path
    ORDER BY attempt DESC,
             list_position(['queued', 'copying', 'arrived', 'verified', 'parked', 'failed', 'ingested', 'deleted'], state) DESC,
             noted_at DESC
) = 1
