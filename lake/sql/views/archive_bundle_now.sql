-- archive_bundle_now: the latest state of every bundle of the archive.
-- Inputs: archive_bundle (append-only events). Grain: one row per (site, bundle_id, location); site keeps the bundle.
SELECT *
FROM archive_bundle
QUALIFY row_number() OVER (PARTITION BY site, bundle_id, location ORDER BY noted_at DESC) = 1
