-- transfer_now: the latest state of every file that a rule moves.
-- Inputs: transfer (append-only events). Grain: one row per (rule_id, path); site is the destination's lake, which the rule names.
FROM transfer QUALIFY last_event(transfer)
