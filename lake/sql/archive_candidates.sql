-- Makes: the registered datasets of files that are chosen for the archive and not in it yet, file by file.
-- Inputs: dataset of the source (the connection's home), archive_member and archive_bundle_now of the keeper ({keeper}).
-- Grain: one row per dataset in a file of which at least one dataset meets the predicate; ordered by path. Parameters: types
-- (null: all), location.
WITH chosen AS (
    SELECT DISTINCT path, file_checksum
    FROM dataset
    WHERE ($types IS NULL OR dataset_type IN (SELECT unnest($types::VARCHAR[]))) AND (
{predicate}
    )
),
archived AS (
    SELECT DISTINCT m.path, m.checksum AS file_checksum
    FROM {keeper}.archive_member m
    SEMI JOIN (FROM {keeper}.archive_bundle_now WHERE location = $location AND state = 'stored') USING (bundle_id)
)
SELECT dataset.* EXCLUDE (registered_at)
FROM dataset
SEMI JOIN chosen USING (path, file_checksum)
ANTI JOIN archived USING (path, file_checksum)
ORDER BY path, dataset_id
