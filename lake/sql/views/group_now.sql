-- group_now: the latest state of every group of a step.
-- Inputs: group (append-only events, central site). Grain: one row per (campaign, step, site, group).
SELECT *
FROM "group"
QUALIFY row_number() OVER (PARTITION BY campaign, step, site, "group" ORDER BY noted_at DESC) = 1
