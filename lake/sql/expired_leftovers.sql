-- Makes: files of expired rules whose datasets are no longer registered at the site, but which the log does not call deleted:
-- they were taken out just now or by a clean that died, or were never taken in.
-- Inputs: manifest, dataset, tombstone_now, transfer_now of the site (the connection's home); parameter: expired (rule ids).
-- Grain: one row per file and rule; kept: a tombstone keeps the file, so that it can be put back.
SELECT t.rule_id, t.path, t.source, t.destination, t.attempt, t.bytes,
       t.path IN (SELECT path FROM tombstone_now WHERE state IN ('unstored', 'purged')) AS kept
FROM transfer_now t
WHERE t.rule_id IN (SELECT unnest($expired::VARCHAR[])) AND t.state <> 'deleted'
  AND t.path NOT IN (SELECT path FROM dataset)
  AND t.path NOT IN (SELECT path FROM manifest WHERE rule_id NOT IN (SELECT unnest($expired::VARCHAR[])))
ORDER BY t.path, t.rule_id
