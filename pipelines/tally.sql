-- tally: how the steps stand
-- inputs: state (runner.sql)
-- grain: one row per step
SELECT step, count(*) AS quanta, count(*) FILTER (WHERE done) AS done, count(*) FILTER (WHERE failed) AS failed
FROM state GROUP BY step ORDER BY step
