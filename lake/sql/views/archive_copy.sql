-- archive_copy: every archived dataset with the bundle that holds it, best first: a damaged bundle may still serve most members.
-- Inputs: archive_bundle (events), archive_member. Grain: one row per (site, bundle_id, location, dataset_id); site keeps the bundle.
WITH bundle AS (
    SELECT site, bundle_id, location, path, state
    FROM archive_bundle
    QUALIFY row_number() OVER (PARTITION BY site, bundle_id, location ORDER BY noted_at DESC) = 1
)
SELECT
    m.site, m.dataset_id, m.dataset_type, m.path, m.bytes, m.checksum,
    m.bundle_id, b.location, b.path AS bundle_path, m.byte_offset, b.state
FROM archive_member m
JOIN bundle b USING (site, bundle_id)
WHERE b.state IN ('stored', 'damaged')
ORDER BY m.path, b.state DESC, m.site, b.location, m.bundle_id, m.dataset_id
