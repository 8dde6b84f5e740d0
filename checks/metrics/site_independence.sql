-- site_independence: datasets that two sites both made, by content.
-- inputs: dataset (all sites); $campaign
-- grain: one row per pair of sites and dataset type
WITH made AS (
    SELECT site, dataset_id, dataset_type, checksum
    FROM dataset
    WHERE origin = site AND quantum_id IS NOT NULL AND starts_with(run, $campaign || '/')
)
SELECT
    a.site, b.site AS other, a.dataset_type,
    count(*) AS compared,
    count(*) FILTER (a.checksum <> b.checksum) AS differing
FROM made a
JOIN made b ON b.dataset_id = a.dataset_id AND b.site > a.site
GROUP BY a.site, b.site, a.dataset_type
ORDER BY a.site, b.site, a.dataset_type
