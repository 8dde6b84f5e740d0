-- Makes: the datasets that belong to collections, whichever way they belong; nothing is shadowed.
-- Inputs: searched (collection, kind: RUN, TAGGED or CALIBRATION), dataset, association, certification.
-- Grain: one row per dataset, columns of dataset.
WITH belonging AS (
    SELECT dataset_id
    FROM (
        FROM association
        QUALIFY row_number() OVER (PARTITION BY collection, dataset_id ORDER BY noted_at DESC) = 1
    )
    SEMI JOIN searched USING (collection)
    WHERE NOT removed
    UNION
    SELECT dataset_id FROM certification SEMI JOIN searched USING (collection)
)
SELECT d.*
FROM dataset d
WHERE
    d.run IN (SELECT collection FROM searched WHERE kind = 'RUN')
    OR d.dataset_id IN (SELECT dataset_id FROM belonging)
