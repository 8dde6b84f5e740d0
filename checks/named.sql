-- named: files that no registered dataset is in, but that something accounts for: rows that wait or were refused, transfers
-- under way, and datasets that were taken out and can be put back.
-- inputs: parked, transfer, tombstone (events)
-- grain: one row per path
SELECT record ->> 'path' AS path
FROM (FROM parked QUALIFY row_number() OVER (
    PARTITION BY dataset_id, record ->> 'checksum' ORDER BY noted_at DESC, state IN ('admitted', 'resolved') DESC) = 1)
WHERE state IN ('parked', 'rejected')
UNION
SELECT path
FROM (FROM transfer QUALIFY last_event(transfer))
WHERE state IN ('copying', 'arrived', 'verified', 'parked')
UNION
SELECT path
FROM (FROM tombstone QUALIFY row_number() OVER (PARTITION BY dataset_id ORDER BY noted_at DESC) = 1)
WHERE state IN ('unstored', 'purged')
