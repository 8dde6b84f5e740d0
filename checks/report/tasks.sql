-- tasks: what the quanta of each task cost.
-- inputs: quantum_state; $campaign
-- grain: one row per task
SELECT step, task, count(*) AS quanta, count(*) FILTER (state = 'no_work') AS no_work,
       count(*) FILTER (state IN ('failed', 'blocked')) AS failed,
       sum(seconds) AS seconds_in_all, median(seconds) AS median_seconds, max(seconds) AS longest_seconds,
       max(peak_memory_mb) AS peak_memory_mb
FROM quantum_state
WHERE campaign = $campaign
GROUP BY step, task
ORDER BY step, task
