-- different: the datasets that two sites both made with different content.
-- inputs: dataset (all sites); $campaign
-- grain: one row per pair of sites and dataset
SELECT
    a.site, b.site AS other, a.dataset_type, a.dataset_id, a.visit, a.detector, a.band, a.tract, a.patch,
    a.checksum AS checksum, b.checksum AS other_checksum
FROM dataset a
JOIN dataset b ON b.dataset_id = a.dataset_id AND b.site > a.site AND b.checksum <> a.checksum
WHERE a.origin = a.site AND b.origin = b.site AND starts_with(a.run, $campaign || '/')
ORDER BY a.site, b.site, a.dataset_type, a.dataset_id
LIMIT 50
