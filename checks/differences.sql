-- differences: everything in which a site's storage and what names its files differ.
-- inputs: storage (path, bytes, age, kind), registered (path, file_bytes, datasets), live (path, table, catalogue),
--         named (path); $spare: seconds for which a new file may be waiting for its registry row, $stale: for which an
--         unfinished file may be in work
-- grain: one row per path: state (lost, damaged, orphan), datasets in it, bytes found, reason
SELECT r.path, 'lost' AS state, r.datasets, NULL::BIGINT AS bytes, 'is not in storage' AS reason
FROM registered r ANTI JOIN storage s USING (path)
UNION ALL
SELECT r.path, 'damaged', r.datasets, s.bytes, 'has ' || s.bytes || ' bytes, ' || r.file_bytes || ' are registered'
FROM registered r JOIN storage s USING (path)
WHERE s.bytes <> r.file_bytes
UNION ALL
SELECT r.path, 'damaged', r.datasets, s.bytes, 'is registered, but the table that it belongs to does not hold it'
FROM registered r JOIN storage s USING (path) ANTI JOIN live l USING (path)
WHERE starts_with(r.path, 'tables/') AND s.bytes = r.file_bytes
UNION ALL
SELECT l.path, 'lost', 0, NULL, 'is not in storage, though table ' || l."table" || ' holds it'
FROM live l ANTI JOIN storage s USING (path) ANTI JOIN registered r USING (path)
UNION ALL
SELECT l.path, 'damaged', 0, 0, 'is empty, though table ' || l."table" || ' holds it'
FROM live l JOIN storage s USING (path) ANTI JOIN registered r USING (path)
WHERE s.bytes = 0
UNION ALL
SELECT s.path, 'orphan', 0, s.bytes,
       coalesce('table ' || l."table" || ' holds it, but no dataset is registered in it', 'nothing names it')
FROM storage s
LEFT JOIN live l USING (path)
ANTI JOIN registered r USING (path)
ANTI JOIN named n USING (path)
WHERE s.kind = 'data' AND s.age >= $spare AND coalesce(l.catalogue, true)
UNION ALL
SELECT s.path, 'orphan', 0, s.bytes, 'is a temporary file that nobody finished'
FROM storage s ANTI JOIN registered r USING (path)
WHERE s.kind = 'unfinished' AND s.age >= $stale
ORDER BY path, state
