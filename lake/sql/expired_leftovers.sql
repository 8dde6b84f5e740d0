-- Makes: files of expired rules whose datasets are no longer registered at the site, but which the log does not call deleted:
-- a clean that died between the registry and the disk left them.
-- Inputs: manifest, dataset, transfer_now of the site (the connection's home); parameter: expired (rule ids).
-- Grain: one row per file and rule.
SELECT t.rule_id, t.path, t.source, t.destination, t.attempt, t.bytes
FROM transfer_now t
WHERE t.rule_id IN (SELECT unnest($expired::VARCHAR[])) AND t.state <> 'deleted'
  AND t.path NOT IN (SELECT path FROM dataset)
  AND t.path NOT IN (SELECT path FROM manifest WHERE rule_id NOT IN (SELECT unnest($expired::VARCHAR[])))
ORDER BY t.path, t.rule_id
