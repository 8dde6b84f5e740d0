-- step_now: the latest state of every step at every site.
-- Inputs: step (append-only events, central site). Grain: one row per (campaign, step, site).
SELECT *
FROM step
QUALIFY row_number() OVER (PARTITION BY campaign, step, site ORDER BY noted_at DESC) = 1
