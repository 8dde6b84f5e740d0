-- stray: orphan files of a site, by the dataset type and step that their path speaks of.
-- inputs: storage_finding (path, state, reason), expected_all (expected_dataset); $campaign, $site
-- grain: one row per orphan file that lies in one of the campaign's runs, or in no campaign's
WITH orphan AS (
    SELECT path, reason, split(path, '/') AS parts FROM storage_finding WHERE state = 'orphan'
),
known AS (
    SELECT DISTINCT dataset_type, step FROM expected_all
),
typed AS (
    SELECT
        o.path, o.reason,
        CASE
            WHEN parts[1] = 'files' AND len(parts) > 4 AND regexp_matches(parts[len(parts) - 1], '^\d+$') THEN parts[len(parts) - 2]
            WHEN parts[1] = 'files' AND len(parts) > 3 THEN parts[len(parts) - 1]
            WHEN parts[2] = 'catalogues' THEN parts[3]
        END AS dataset_type
    FROM orphan o
    WHERE parts[1] <> 'files' OR len(parts) < 4 OR parts[2] = $campaign
)
SELECT $site AS site, coalesce(k.step, 'storage') AS step, coalesce(t.dataset_type, '-') AS dataset_type, t.path, t.reason
FROM typed t LEFT JOIN known k USING (dataset_type)
