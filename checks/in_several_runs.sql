-- in_several_runs: dataset types that several runs of the campaign's chain hold.
-- inputs: present_sum (dataset_type, run), collection (events); $campaign
-- grain: one row per dataset type
SELECT dataset_type
FROM present_sum
WHERE list_contains(
    (SELECT split(children, ',') FROM collection WHERE collection = $campaign ORDER BY noted_at DESC LIMIT 1), run)
GROUP BY dataset_type
HAVING count(DISTINCT run) > 1
