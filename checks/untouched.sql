-- untouched: dataset types of which nothing is here, on its way or was taken out, and of which no producing quantum was tried.
-- inputs: expected_sum (dataset_type, task), present_sum, attempt_count (task), manifest_all, parked_all, tombstone_all
-- grain: one row per dataset type
SELECT DISTINCT dataset_type
FROM expected_sum
ANTI JOIN present_sum USING (dataset_type)
ANTI JOIN (SELECT dataset_type FROM expected_sum SEMI JOIN attempt_count USING (task)) USING (dataset_type)
ANTI JOIN manifest_all USING (dataset_type)
ANTI JOIN parked_all USING (dataset_type)
ANTI JOIN tombstone_all USING (dataset_type)
