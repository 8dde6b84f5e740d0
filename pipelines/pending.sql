-- pending: quanta of one task that are still to run; a blocked one is looked at again
-- inputs: state (runner.sql); $task, $attempts
-- grain: one row per quantum
SELECT * EXCLUDE (done, failed) FROM state WHERE task = $task AND NOT done AND tried < $attempts ORDER BY job, quantum_id
