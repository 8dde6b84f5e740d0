-- Makes: the datasets that a rule wants at its destination and that are not in its manifest yet: those that the destination
-- does not have, or has with other content.
-- Inputs: dataset of the source (the connection's home; of all sites where the source is any), manifest and dataset of the
-- destination.
-- Grain: one row per dataset of the source that meets the predicate; parameters: types, rule. Of a dataset that several sites
-- have, the first row by origin and path counts. In braces stand the columns of dataset, the predicate, and the destination.
WITH wanted AS (
    SELECT {columns}
    FROM dataset
    WHERE dataset_type IN (SELECT unnest($types::VARCHAR[])) AND (
{predicate}
    )
    QUALIFY row_number() OVER (PARTITION BY dataset_id ORDER BY origin, path, checksum) = 1
)
SELECT
    $rule AS rule_id,
    w.dataset_id, w.dataset_type, w.path, w.file_bytes, w.file_checksum,
    to_json(w)::VARCHAR AS record
FROM wanted w
LEFT JOIN {destination}.dataset here ON here.dataset_id = w.dataset_id AND here.checksum = w.checksum
LEFT JOIN {destination}.manifest known
    ON known.rule_id = $rule AND known.dataset_id = w.dataset_id
    AND known.path = w.path AND known.file_checksum = w.file_checksum
WHERE here.dataset_id IS NULL AND known.dataset_id IS NULL
ORDER BY w.path, w.dataset_id
