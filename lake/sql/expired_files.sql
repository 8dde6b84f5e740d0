-- Makes: the files that rules whose lifetime is over brought to a site and that are still there, with what keeps each.
-- Inputs: manifest, rule_now, dataset, tombstone_now of the site (the connection's home); parameters: expired (rule ids), wanted
-- (ids of datasets that other rules want here), site.
-- Grain: one row per file; datasets and checksums list what is registered in it; kept is null where nothing keeps it here.
WITH released AS (
    SELECT m.dataset_id, max(r.expires_at) AS ended
    FROM manifest m JOIN rule_now r USING (rule_id)
    WHERE m.rule_id IN (SELECT unnest($expired::VARCHAR[]))
    GROUP BY m.dataset_id
),
wanted AS (
    SELECT unnest($wanted::VARCHAR[]) AS dataset_id
    UNION
    SELECT dataset_id FROM manifest WHERE rule_id NOT IN (SELECT unnest($expired::VARCHAR[]))
)
SELECT
    d.path, max(d.file_bytes) AS file_bytes,
    list(d.dataset_id ORDER BY d.dataset_id) AS datasets, list(d.checksum ORDER BY d.dataset_id) AS checksums,
    CASE
        WHEN bool_or(d.origin = $site) THEN 'it was made here'
        WHEN count(w.dataset_id) > 0 THEN 'another rule wants it here'
        WHEN bool_or(t.state = 'restored' AND t.noted_at > r.ended) THEN 'it was put back after its time'
        WHEN count(r.dataset_id) < count(*) THEN 'it holds datasets that no expired rule brought'
    END AS kept
FROM dataset d
LEFT JOIN released r ON r.dataset_id = d.dataset_id
LEFT JOIN tombstone_now t ON t.dataset_id = d.dataset_id
LEFT JOIN wanted w ON w.dataset_id = d.dataset_id
WHERE d.path IN (SELECT path FROM dataset SEMI JOIN released USING (dataset_id))
GROUP BY d.path
ORDER BY d.path
