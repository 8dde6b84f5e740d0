-- manifest_type: datasets of some types that a rule should bring, and in which phase: of the rule that spoke last, one that still holds if there is one (as in standing.sql).
-- inputs: manifest_all, rule (events); $kinds; grain: one row per dataset
WITH rule_now AS (
    FROM rule QUALIFY row_number() OVER (PARTITION BY rule_id ORDER BY revision DESC, noted_at DESC) = 1
)
SELECT m.dataset_id, split_part(r.name, '/', 1) AS phase
FROM manifest_all m JOIN rule_now r USING (rule_id)
WHERE list_contains($kinds, m.dataset_type)
QUALIFY row_number() OVER (PARTITION BY m.dataset_id ORDER BY r.state = 'EXPIRED', r.noted_at DESC, m.rule_id) = 1
