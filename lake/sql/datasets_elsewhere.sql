-- Makes: other sites that have all the datasets of a file, with the same content, and the files they have them in.
-- Inputs: dataset (all sites); parameters: lists of equal length paths, datasets and checksums (one entry per dataset of a
-- file), and the site that is asked for. Grain: one row per (file, site, file there).
WITH held AS (
    SELECT unnest($paths::VARCHAR[]) AS path, unnest($datasets::VARCHAR[]) AS dataset_id, unnest($checksums::VARCHAR[]) AS checksum
),
there AS (
    SELECT h.path, d.site, d.dataset_id, d.path AS replica, d.file_bytes, d.file_checksum
    FROM held h JOIN dataset d ON d.dataset_id = h.dataset_id AND d.checksum = h.checksum
    WHERE d.site <> $site
)
SELECT path, site, replica, file_bytes, file_checksum
FROM there
WHERE (path, site) IN (
    SELECT (t.path, t.site)
    FROM there t JOIN (SELECT path, count(DISTINCT dataset_id) AS n FROM held GROUP BY path) h ON h.path = t.path
    GROUP BY t.path, t.site, h.n
    HAVING count(DISTINCT t.dataset_id) = h.n
)
GROUP BY ALL
ORDER BY path, site, replica
