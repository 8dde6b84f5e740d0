-- Makes: the id of every given dataset, the computed one where it is '', and what is wrong with its data ID or a given id.
-- Inputs: named (ordinal, dataset_type, dataset_id, computed_id, missing: see identity.named()).
-- Grain: one row per row of named. dataset_id is null where it is not given and the type is not known.
SELECT
    ordinal,
    coalesce(nullif(dataset_id, ''), computed_id) AS dataset_id,
    CASE
        WHEN missing <> '' THEN dataset_type || ': no value for ' || missing
        WHEN dataset_id <> '' AND computed_id <> dataset_id
            THEN dataset_type || ': dataset_id is not that of its data ID, ' || computed_id
    END AS fault,
    computed_id IS NULL AS unknown_type
FROM named
