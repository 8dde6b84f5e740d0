-- Makes: other sites' replicas of files: the same dataset registered with a file of the same content.
-- Inputs: dataset (all sites). Grain: one row per (file, site); parameters: lists of equal length paths, datasets and
-- checksums (the file, one of its datasets, the file's checksum), and the site that must not serve itself.
WITH wanted AS (
    SELECT unnest($paths::VARCHAR[]) AS path, unnest($datasets::VARCHAR[]) AS dataset_id,
           unnest($checksums::VARCHAR[]) AS file_checksum
)
SELECT w.path, d.site, min(d.path) AS replica
FROM wanted w
JOIN dataset d ON d.dataset_id = w.dataset_id AND d.file_checksum = w.file_checksum
WHERE d.site <> $site
GROUP BY w.path, d.site
ORDER BY w.path, d.site
