-- expected_type: expected datasets of some types that are looked at one by one: those that are missing, those of quanta that
-- ever failed, and those in odd_type.
-- inputs: e (expected), d (registered: dataset_id), trouble (quantum_id), odd_type (dataset_id)
-- grain: one row per expected dataset; missing: it is not registered
SELECT e.*, d.here IS NULL AS missing
FROM e LEFT JOIN (SELECT dataset_id AS here FROM d) d ON e.dataset_id = d.here
WHERE d.here IS NULL OR e.quantum_id IN (FROM trouble) OR e.dataset_id IN (FROM odd_type)
