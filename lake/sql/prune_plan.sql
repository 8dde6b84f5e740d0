-- Makes: datasets that are to be taken out of a site's registry, each with what speaks against it.
-- Inputs: of the site: dataset, association_now, certification_now, rule_now, manifest ("{site}".*); dataset of all sites (main.dataset,
--         with the column site), archive_copy. Parameters: ids, site, bundles (site/bundle_id/location of those that count).
-- Grain: one row per registered dataset among ids; the columns of dataset and
--         replicas (how many other sites have it), archived (how many bundles that count hold it), unsound (others), tagged, certified (collections), wanted (a rule's name), shared (another
--         dataset that stays and is in the same file).
WITH chosen AS (
    SELECT * FROM {site}.dataset WHERE dataset_id IN (SELECT unnest($ids::VARCHAR[]))
),
elsewhere AS (
    SELECT c.dataset_id, count(DISTINCT d.site) AS replicas
    FROM main.dataset d
    JOIN chosen c ON c.dataset_id = d.dataset_id AND c.checksum = d.checksum
    WHERE d.site <> $site
    GROUP BY c.dataset_id
),
kept AS (
    SELECT dataset_id, count(*) FILTER (counts) AS archived, count(*) FILTER (NOT counts) AS unsound
    FROM (
        SELECT DISTINCT a.dataset_id, a.site, a.bundle_id, a.location,
               concat_ws('/', a.site, a.bundle_id, a.location) IN (SELECT unnest($bundles::VARCHAR[])) AS counts
        FROM main.archive_copy a JOIN chosen c ON c.dataset_id = a.dataset_id AND c.file_checksum = a.checksum)
    GROUP BY dataset_id
),
tagged AS (
    SELECT dataset_id, string_agg(collection, ', ' ORDER BY collection) AS tagged
    FROM {site}.association_now SEMI JOIN chosen USING (dataset_id)
    GROUP BY dataset_id
),
certified AS (
    SELECT dataset_id, string_agg(DISTINCT collection, ', ' ORDER BY collection) AS certified
    FROM {site}.certification_now SEMI JOIN chosen USING (dataset_id)
    GROUP BY dataset_id
),
wanted AS (
    SELECT m.dataset_id, min(r.name) AS wanted
    FROM {site}.manifest m
    JOIN {site}.rule_now r USING (rule_id)
    SEMI JOIN chosen USING (dataset_id)
    WHERE r.state IN ('REPLICATING', 'OK', 'STUCK', 'SUSPENDED')
    GROUP BY m.dataset_id
),
shared AS (
    SELECT path, min(dataset_id) AS shared
    FROM {site}.dataset SEMI JOIN chosen USING (path) ANTI JOIN chosen c USING (dataset_id)
    GROUP BY path
)
SELECT c.*, coalesce(e.replicas, 0) AS replicas, coalesce(k.archived, 0) AS archived, coalesce(k.unsound, 0) AS unsound,
       t.tagged, v.certified, w.wanted, s.shared
FROM chosen c
LEFT JOIN elsewhere e USING (dataset_id)
LEFT JOIN kept k USING (dataset_id)
LEFT JOIN tagged t USING (dataset_id)
LEFT JOIN certified v USING (dataset_id)
LEFT JOIN wanted w USING (dataset_id)
LEFT JOIN shared s USING (path)
ORDER BY c.dataset_type, c.visit, c.tract, c.detector, c.patch, c.dataset_id
