-- Makes: the datasets that belong to collections, whichever way they belong; nothing is shadowed.
-- Inputs: searched (collection, kind: RUN, TAGGED or CALIBRATION), dataset, association_now, certification_now.
-- Grain: one row per dataset, columns of dataset.
SELECT *
FROM dataset
WHERE
    run IN (SELECT collection FROM searched WHERE kind = 'RUN')
    OR dataset_id IN (SELECT dataset_id FROM association_now SEMI JOIN searched USING (collection))
    OR dataset_id IN (SELECT dataset_id FROM certification_now SEMI JOIN searched USING (collection))
