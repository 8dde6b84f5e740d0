-- Makes: parked_events, the events that a judged batch adds to parked.
-- Inputs: judged, parked_now; variable 'now'.
-- Grain: one row per dataset that is parked or rejected for a reason not yet noted, or that is admitted at last.
CREATE OR REPLACE TEMP TABLE parked_events AS
SELECT
    j.dataset_id, j.dataset_type, j.run, j.instrument, j.exposure, j.visit, j.detector, j.physical_filter, j.band, j.day_obs,
    j.skymap, j.tract, j.patch,
    if(j.verdict IN ('accepted', 'present'), 'admitted', j.verdict) AS state,
    coalesce(j.reason, 'its dimension records arrived') AS reason,
    to_json({
        'dataset_id': j.dataset_id, 'dataset_type': j.dataset_type, 'run': j.run, 'instrument': j.instrument,
        'exposure': j.exposure, 'visit': j.visit, 'detector': j.detector, 'physical_filter': j.physical_filter,
        'band': j.band, 'day_obs': j.day_obs, 'skymap': j.skymap, 'tract': j.tract, 'patch': j.patch, 'path': j.path,
        'bytes': j.bytes, 'rows': j.rows, 'checksum': j.checksum, 'file_bytes': j.file_bytes,
        'file_checksum': j.file_checksum, 'origin': j.origin, 'quantum_id': j.quantum_id, 'registered_at': j.registered_at
    })::VARCHAR AS record,
    getvariable('now') AS noted_at
FROM judged j
LEFT JOIN parked_now p ON p.dataset_id = j.dataset_id AND p.checksum = j.checksum
WHERE (j.nth = 1 OR j.verdict = 'rejected') AND CASE
    WHEN j.verdict IN ('accepted', 'present') THEN p.state = 'parked'
    ELSE p.state IS DISTINCT FROM j.verdict OR p.reason IS DISTINCT FROM j.reason
END
ORDER BY j.dataset_type, j.dataset_id;
