-- with_extra: dataset types of which more is registered than what is expected and not missing.
-- inputs: present_sum, expected_sum (dataset_type, datasets), expected_type (dataset_type, missing)
-- grain: one row per dataset type; meaningful for types that expected_type was made of
SELECT dataset_type
FROM (SELECT dataset_type, datasets FROM present_sum
      UNION ALL
      SELECT dataset_type, -datasets FROM expected_sum
      UNION ALL
      SELECT dataset_type, 1 FROM expected_type WHERE missing)
GROUP BY dataset_type
HAVING sum(datasets) > 0
