-- Makes: pairs of different datasets of one type and data ID that a TAGGED collection would hold.
-- Inputs: given (dataset_id), association (events), dataset. Grain: one row per pair; must be empty before given is written.
-- Parameter: collection.
WITH members AS (
    SELECT dataset_id
    FROM association
    WHERE collection = $collection
    QUALIFY row_number() OVER (PARTITION BY dataset_id ORDER BY noted_at DESC) = 1 AND NOT removed
    UNION
    SELECT dataset_id FROM given
),
held AS (
    SELECT dataset_id, run, dataset_type, (instrument, exposure, visit, detector, physical_filter, band, day_obs, skymap, tract, patch) AS data_id
    FROM dataset SEMI JOIN members USING (dataset_id)
)
SELECT a.dataset_type, a.dataset_id, a.run, b.dataset_id AS other_id, b.run AS other_run
FROM held a
SEMI JOIN given USING (dataset_id)
JOIN held b ON b.dataset_type = a.dataset_type AND b.data_id IS NOT DISTINCT FROM a.data_id AND b.dataset_id <> a.dataset_id
ORDER BY ALL
LIMIT 1
