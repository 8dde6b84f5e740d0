-- Makes: parked_events, the events that a judged batch adds to parked.
-- Inputs: judged (rows of given that are not in it are accepted), given (ordinal and the columns of dataset), parked (events), parked_now.
-- Grain: one row per dataset that is parked or rejected for a reason not yet noted, or that is admitted at last.
-- The latest event counts: these are later than what was noted before, also where the clock was set back.
CREATE OR REPLACE TEMP TABLE parked_events AS
WITH decided AS (
    FROM judged
    UNION ALL BY NAME
    SELECT g.ordinal, g.dataset_id, g.checksum, 1 AS nth, 'accepted' AS verdict
    FROM given g SEMI JOIN parked_now p ON p.dataset_id = g.dataset_id ANTI JOIN judged j ON j.ordinal = g.ordinal
),
noted AS (
    SELECT j.*
    FROM decided j
    LEFT JOIN parked_now p ON p.dataset_id = j.dataset_id AND p.checksum = j.checksum
    WHERE (j.nth = 1 OR j.verdict = 'rejected') AND CASE
        WHEN j.verdict IN ('accepted', 'present') THEN p.state = 'parked'
        ELSE p.state IS DISTINCT FROM j.verdict OR p.reason IS DISTINCT FROM j.reason
    END
)
SELECT
    j.dataset_id, g.dataset_type, g.run, g.instrument, g.exposure, g.visit, g.detector, g.physical_filter, g.band, g.day_obs,
    g.skymap, g.tract, g.patch,
    if(j.verdict IN ('accepted', 'present'), 'admitted', j.verdict) AS state,
    coalesce(j.reason, 'its dimension records arrived') AS reason,
    to_json({
        'dataset_id': j.dataset_id, 'dataset_type': g.dataset_type, 'run': g.run, 'instrument': g.instrument,
        'exposure': g.exposure, 'visit': g.visit, 'detector': g.detector, 'physical_filter': g.physical_filter,
        'band': g.band, 'day_obs': g.day_obs, 'skymap': g.skymap, 'tract': g.tract, 'patch': g.patch, 'path': g.path,
        'bytes': g.bytes, 'rows': g.rows, 'checksum': g.checksum, 'file_bytes': g.file_bytes,
        'file_checksum': g.file_checksum, 'origin': g.origin, 'quantum_id': g.quantum_id, 'registered_at': g.registered_at
    })::VARCHAR AS record,
    greatest(g.registered_at, (SELECT max(noted_at) + INTERVAL 1 MICROSECOND FROM parked)) AS noted_at
FROM noted j
JOIN given g USING (ordinal)
ORDER BY g.dataset_type, j.dataset_id;
