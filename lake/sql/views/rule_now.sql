-- rule_now: the latest state of every rule.
-- Inputs: rule (append-only events). Grain: one row per (site, rule_id); site is the destination's lake.
SELECT *
FROM rule
QUALIFY row_number() OVER (PARTITION BY site, rule_id ORDER BY revision DESC, noted_at DESC) = 1
