-- between: what changed in a site's registry between two of its versions.
-- inputs: before, after (rows of dataset in the parquet files that only the one or the other version has: rows in files
--         that both have are the same); tombstone (dataset_id: what was removed on purpose)
-- grain: one row per dataset: appeared; removed (on purpose); gone (without a word); changed (other content or path)
SELECT 'appeared' AS state, a.dataset_type, a.dataset_id, a.run, a.path, a.registered_at, NULL::VARCHAR AS reason
FROM "after" a ANTI JOIN "before" b USING (dataset_id)
UNION ALL
SELECT if(t.dataset_id IS NULL, 'gone', 'removed'), b.dataset_type, b.dataset_id, b.run, b.path, b.registered_at,
       if(t.dataset_id IS NULL, 'was registered, is not any more, and no tombstone says why', NULL)
FROM "before" b ANTI JOIN "after" a USING (dataset_id) LEFT JOIN (SELECT DISTINCT dataset_id FROM tombstone) t USING (dataset_id)
UNION ALL
SELECT 'changed', a.dataset_type, a.dataset_id, a.run, a.path, a.registered_at,
       if(a.path <> b.path, 'was in ' || b.path, 'had the checksum ' || left(b.checksum, 12) || '..., has ' || left(a.checksum, 12) || '...')
FROM "after" a JOIN "before" b USING (dataset_id)
WHERE a.path <> b.path OR a.checksum <> b.checksum
ORDER BY state, dataset_type, path, dataset_id
