-- around: files that a listing made between two versions of the registry shows to be lost or dark.
-- inputs: registered_before, registered_after (path, datasets), listed (path, bytes), named (path: what waits or travels now)
-- grain: one row per path. lost: registered before and after, not listed; dark: listed, registered neither before nor after
SELECT 'lost' AS state, path, a.datasets, NULL::BIGINT AS bytes, 'is registered before and after, and not listed' AS reason
FROM registered_after a SEMI JOIN registered_before b USING (path) ANTI JOIN listed l USING (path)
UNION ALL
SELECT 'dark', path, 0, l.bytes, 'is listed, and registered neither before nor after'
FROM listed l ANTI JOIN registered_before b USING (path) ANTI JOIN registered_after a USING (path) ANTI JOIN named n USING (path)
WHERE starts_with(path, 'files/') OR starts_with(path, 'tables/catalogues/') AND path NOT LIKE '%/_delta_log/%'
ORDER BY state, path
