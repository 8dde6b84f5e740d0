-- part: one of $parts parts of the odd datasets, number $number: datasets of one data ID are all in the same one.
-- inputs: odd (dataset_id), expected_odd, dataset_odd; grain: one row per dataset
WITH placed AS (
    SELECT dataset_id, min(hash(dataset_type, instrument, exposure, visit, detector, skymap, tract, patch)) AS place
    FROM (SELECT dataset_id, dataset_type, instrument, exposure, visit, detector, skymap, tract, patch FROM dataset_odd
          UNION ALL
          SELECT dataset_id, dataset_type, instrument, exposure, visit, detector, skymap, tract, patch
          FROM expected_odd ANTI JOIN dataset_odd USING (dataset_id))
    WHERE $parts > 1
    GROUP BY dataset_id
)
SELECT DISTINCT o.dataset_id
FROM odd o LEFT JOIN placed p USING (dataset_id)
WHERE coalesce(p.place, hash(o.dataset_id)) % $parts::UBIGINT = $number::UBIGINT
