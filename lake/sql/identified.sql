-- Makes: the id of every given dataset, computed where it is '', and what is wrong with its data ID or a given id.
-- Inputs: dataset_names (ordinal, dataset_type, dataset_id, name, missing), macro uuid5.
-- Grain: one row per row of dataset_names. dataset_id is null where it is not given and the type is not known.
SELECT
    ordinal,
    coalesce(nullif(dataset_id, ''), computed_id) AS dataset_id,
    CASE
        WHEN missing <> '' THEN dataset_type || ': no value for ' || missing
        WHEN dataset_id <> '' AND computed_id <> dataset_id
            THEN dataset_type || ': dataset_id is not that of its data ID, ' || computed_id
    END AS fault,
    computed_id IS NULL AS unknown_type
FROM (SELECT ordinal, dataset_type, dataset_id, missing, uuid5(name) AS computed_id FROM dataset_names)
