-- transfer_now: the latest state of every file that a rule moves.
-- Inputs: transfer (append-only events). Grain: one row per (site, rule_id, path); site is the destination's lake.
-- `at` grows with every event of a file; the state's rank only settles a tie.
SELECT *
FROM transfer
QUALIFY row_number() OVER (
    PARTITION BY site, rule_id, path
    ORDER BY noted_at DESC, attempt DESC,
             list_position(['queued', 'copying', 'arrived', 'verified', 'failed', 'parked', 'ingested'], state) DESC
) = 1
