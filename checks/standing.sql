-- standing: every dataset that should be at a site for a campaign, or is there, and what became of it.
-- inputs: expected_dataset, attempt, dataset, manifest, rule, transfer, parked, collection, certification, tombstone of the site;
--         archive_copy (dataset_id, checksum of the file: in a sound bundle of any site's archive); storage_finding (path, state, reason: what is wrong in storage now); $campaign, $site
-- in_archive: it is registered here, and the archive has a copy of it
-- grain: one row per dataset (orphan files, which are no datasets, are counted elsewhere)
-- why: predicted (a quantum should make it), moved (a rule should bring it), placed (the campaign begins with it here),
--      arrived (it came, and waits or was refused), none (registered, and nothing asked for it)
WITH reset AS (
    SELECT quantum_id, max(noted_at) AS noted_at FROM attempt WHERE campaign = $campaign AND state = 'reset' GROUP BY quantum_id
),
outcome AS (
    SELECT
        a.quantum_id,
        bool_or(a.state = 'succeeded') AS succeeded,
        bool_or(a.state = 'no_work') AS no_work,
        arg_max(a.state, {'noted_at': a.noted_at, 'attempt': a.attempt}) AS latest,
        arg_max(a.reason, {'noted_at': a.noted_at, 'attempt': a.attempt}) AS reason
    FROM attempt a LEFT JOIN reset r USING (quantum_id)
    WHERE a.campaign = $campaign AND a.state <> 'started' AND (r.noted_at IS NULL OR a.noted_at > r.noted_at)
    GROUP BY a.quantum_id
),
rule_now AS (
    FROM rule QUALIFY row_number() OVER (PARTITION BY rule_id ORDER BY revision DESC, noted_at DESC) = 1
),
transfer_now AS (
    FROM transfer QUALIFY last_event(transfer)
),
parked_event AS (  -- what came by a rule and waits, the transfer log alone says
    FROM parked
    UNION ALL BY NAME
    SELECT m.dataset_id, m.dataset_type, m.record ->> 'run' AS run, unnest(data_id(m.record)), t.state, t.reason, m.record, t.noted_at
    FROM transfer_now t JOIN manifest m USING (rule_id, path)
    WHERE t.state = 'parked'
),
parked_now AS (
    SELECT *, record ->> 'checksum' AS checksum
    FROM parked_event
    WHERE starts_with(run, $campaign || '/')
    QUALIFY row_number() OVER (
        PARTITION BY dataset_id, record ->> 'checksum' ORDER BY noted_at DESC, state IN ('admitted', 'resolved') DESC) = 1
),
held AS (
    SELECT * FROM dataset WHERE starts_with(run, $campaign || '/')
),
gone AS (
    SELECT dataset_id, dataset_type, run, record, reason
    FROM (FROM tombstone QUALIFY row_number() OVER (PARTITION BY dataset_id ORDER BY noted_at DESC) = 1)
    ANTI JOIN held USING (dataset_id)
    WHERE state <> 'restored'
),
archived AS (
    FROM gone SEMI JOIN archive_copy a ON a.dataset_id = gone.dataset_id AND a.checksum = gone.record ->> 'file_checksum'
),
forgotten AS (  -- what was taken out on purpose and is in no archive is expected no more
    FROM gone ANTI JOIN archived USING (dataset_id)
),
predicted AS (
    SELECT * FROM expected_dataset ANTI JOIN forgotten USING (dataset_id) WHERE starts_with(run, $campaign || '/')
),
moved AS (
    SELECT
        m.rule_id, m.path, m.dataset_id, m.dataset_type, split_part(r.name, '/', 1) AS phase, r.name AS rule_name,
        r.state AS rule_state, r.reason AS rule_reason, unnest(data_id(m.record))
    FROM manifest m JOIN rule_now r USING (rule_id) ANTI JOIN forgotten USING (dataset_id)
    WHERE starts_with(m.record ->> 'run', $campaign || '/')
      AND (r.state <> 'EXPIRED' OR m.dataset_id IN (SELECT dataset_id FROM held))  -- what has had its time may be gone
    QUALIFY row_number() OVER (PARTITION BY m.dataset_id ORDER BY r.state = 'EXPIRED', r.noted_at DESC, m.rule_id) = 1
),
refused AS (  -- what waits or was refused, unless the very content that was refused is registered by now
    SELECT p.* FROM parked_now p LEFT JOIN held h USING (dataset_id)
    WHERE (p.state = 'parked' AND h.dataset_id IS NULL)
       OR (p.state = 'rejected' AND h.checksum IS DISTINCT FROM p.checksum)
    QUALIFY row_number() OVER (PARTITION BY p.dataset_id ORDER BY p.noted_at DESC, p.state DESC) = 1
),
first_run AS (  -- where the campaign's chain is searched first, for data IDs that are in several of its runs
    SELECT c.collection, list_position(split(k.children, ','), c.collection) AS position
    FROM collection c, (FROM collection WHERE collection = $campaign QUALIFY row_number() OVER (ORDER BY noted_at DESC) = 1) k
),
twin AS (
    SELECT h.dataset_id, row_number() OVER (
        PARTITION BY h.dataset_type, h.instrument, h.exposure, h.visit, h.detector, h.physical_filter, h.band, h.day_obs,
                     h.skymap, h.tract, h.patch
        ORDER BY f.position) AS place
    FROM held h JOIN (SELECT DISTINCT collection, position FROM first_run) f ON f.collection = h.run
    ANTI JOIN certification c USING (dataset_id)  -- calibrations are found by time, not by place in the chain
),
put_away AS (  -- what the campaign began with here
    SELECT *, unnest(data_id(record))
    FROM archived ANTI JOIN predicted USING (dataset_id) ANTI JOIN moved USING (dataset_id)
    WHERE starts_with(run, $campaign || '/') AND record ->> 'origin' = $site AND record ->> 'quantum_id' IS NULL
),
wanted AS (
    SELECT 'predicted' AS why, p.step, p.dataset_type, p.dataset_id, p.quantum_id, p.exposure, p.visit, p.detector, p.tract,
           NULL::VARCHAR AS rule_id, NULL::VARCHAR AS path
    FROM predicted p
    UNION ALL
    SELECT 'moved', m.phase, m.dataset_type, m.dataset_id, NULL, m.exposure, m.visit, m.detector, m.tract, m.rule_id, m.path
    FROM moved m ANTI JOIN predicted p USING (dataset_id)
    UNION ALL
    SELECT if(h.origin = $site AND h.quantum_id IS NULL, 'placed', 'none'),
           if(starts_with(split_part(h.run, '/', 2), 'step'), split_part(h.run, '/', 2), 'place'),
           h.dataset_type, h.dataset_id, h.quantum_id, h.exposure, h.visit, h.detector, h.tract, NULL, NULL
    FROM held h ANTI JOIN predicted p USING (dataset_id) ANTI JOIN moved m USING (dataset_id)
    UNION ALL
    SELECT 'arrived', if(starts_with(split_part(r.run, '/', 2), 'step'), split_part(r.run, '/', 2), 'place'),
           r.dataset_type, r.dataset_id, NULL, r.exposure, r.visit, r.detector, r.tract, NULL, NULL
    FROM refused r
    ANTI JOIN predicted p USING (dataset_id) ANTI JOIN moved m USING (dataset_id) ANTI JOIN held h USING (dataset_id)
    ANTI JOIN put_away a USING (dataset_id)
    UNION ALL
    SELECT 'placed', if(starts_with(split_part(a.run, '/', 2), 'step'), split_part(a.run, '/', 2), 'place'),
           a.dataset_type, a.dataset_id, NULL, a.exposure, a.visit, a.detector, a.tract, NULL, NULL
    FROM put_away a
)
SELECT
    $site AS site, w.why, w.step, w.dataset_type, w.dataset_id, w.quantum_id, w.exposure, w.visit, w.detector, w.tract,
    CASE
        WHEN h.dataset_id IS NOT NULL AND s.state IS NOT NULL THEN s.state
        WHEN r.state = 'rejected' THEN 'rejected'
        WHEN w.why = 'none' THEN 'unexpected'
        WHEN h.dataset_id IS NOT NULL AND o.latest IN ('failed', 'blocked') AND NOT (o.succeeded OR o.no_work)
             AND h.origin = $site THEN 'cursed'
        WHEN h.dataset_id IS NOT NULL AND coalesce(t.place, 1) > 1 THEN 'shadowed'
        WHEN h.dataset_id IS NOT NULL THEN 'visible'
        WHEN r.state = 'parked' THEN 'parked'
        WHEN a.dataset_id IS NOT NULL THEN 'archived'
        WHEN w.why = 'moved' THEN 'in_transit'
        WHEN o.succeeded THEN 'lost'
        WHEN o.no_work THEN 'predicted_only'
        WHEN o.latest IN ('failed', 'blocked') THEN 'unsuccessful'
        ELSE 'waiting'
    END AS state,
    CASE
        WHEN h.dataset_id IS NOT NULL AND s.state IS NOT NULL THEN s.path || ' ' || s.reason
        WHEN r.dataset_id IS NOT NULL THEN r.reason
        WHEN w.why = 'none' THEN 'registered, but no quantum or rule asked for it'
        WHEN h.dataset_id IS NOT NULL THEN o.reason
        WHEN a.dataset_id IS NOT NULL THEN 'taken out: ' || a.reason
        WHEN w.why = 'moved' THEN 'rule ' || m.rule_name || ' is ' || m.rule_state
            || coalesce(': ' || coalesce(x.reason, m.rule_reason), '')
        WHEN o.succeeded THEN 'its quantum succeeded, but it is not registered'
        ELSE o.reason
    END AS reason,
    h.bytes, h.path, h.origin,
    h.dataset_id IS NOT NULL AND (h.dataset_id, h.file_checksum) IN (SELECT (dataset_id, checksum) FROM archive_copy) AS in_archive
FROM wanted w
LEFT JOIN held h USING (dataset_id)
LEFT JOIN storage_finding s ON s.path = h.path
LEFT JOIN refused r ON r.dataset_id = w.dataset_id
LEFT JOIN archived a ON a.dataset_id = w.dataset_id
LEFT JOIN outcome o ON o.quantum_id = w.quantum_id
LEFT JOIN moved m ON m.dataset_id = w.dataset_id AND w.why = 'moved'
LEFT JOIN transfer_now x ON x.rule_id = w.rule_id AND x.path = w.path
LEFT JOIN twin t ON t.dataset_id = w.dataset_id
