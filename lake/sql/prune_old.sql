-- Makes: files of datasets that were taken out of a site's registry, and that may go for good.
-- Inputs: of the site: dataset, tombstone_now, parked_now ("{site}".*); dataset and archive_copy of all sites (main.*).
-- Parameters: site, before (taken out earlier than that), reason (null: whatever it was), bundles (site/bundle_id/location of
-- those that count). Grain: one row per dataset: path, record, noted_at; last: no other site and no bundle has it, though one
-- had when it was taken out.
WITH out AS (
    SELECT * FROM {site}.tombstone_now
    WHERE state IN ('unstored', 'purged') AND path NOT IN (SELECT path FROM {site}.dataset)
),
old AS (
    FROM out
    WHERE noted_at < $before AND ($reason IS NULL OR reason = $reason)
      AND path NOT IN (SELECT record ->> 'path' FROM {site}.parked_now WHERE state = 'parked')
      AND path NOT IN (SELECT path FROM out WHERE noted_at >= $before OR ($reason IS NOT NULL AND reason <> $reason))
),
elsewhere AS (
    SELECT o.dataset_id FROM old o
    SEMI JOIN (FROM main.dataset WHERE site <> $site) d ON d.dataset_id = o.dataset_id AND d.checksum = o.record ->> 'checksum'
    UNION
    SELECT o.dataset_id FROM old o
    SEMI JOIN (FROM main.archive_copy
               WHERE concat_ws('/', site, bundle_id, location) IN (SELECT unnest($bundles::VARCHAR[]))) a
        ON a.dataset_id = o.dataset_id AND a.checksum = o.record ->> 'file_checksum'
)
SELECT o.path, o.record, bool_or(o.state = 'unstored' AND e.dataset_id IS NULL) OVER (PARTITION BY o.path) AS last
FROM old o LEFT JOIN elsewhere e USING (dataset_id)
ORDER BY o.path, o.dataset_id
