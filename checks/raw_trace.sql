-- raw_trace: every raw of the campaign, followed to the last product that should hold it.
-- inputs: standing (all sites), step_order, touched (visit: those whose footprint touches a tract of the campaign)
-- grain: one row per raw. A raw is held by the products of its detector and by those of its visit, at every site that
-- processes it. state: complete; the state of the first product that is missing, in order of steps; unprocessed where
-- nothing ever asked for a product of it (explained where its visit touches no tract of the campaign).
WITH raw AS (
    SELECT exposure, detector, any_value(visit) AS visit, any_value(dataset_id) AS dataset_id,
           any_value(site) FILTER (why IN ('placed', 'none', 'arrived')) AS origin
    FROM standing WHERE dataset_type = 'raw' GROUP BY exposure, detector
),
product AS (
    SELECT s.exposure, s.detector, s.site, s.step, s.dataset_type, s.state, s.reason, o.position
    FROM standing s JOIN step_order o USING (step)
    WHERE s.why = 'predicted' AND s.exposure IS NOT NULL
),
of_detector AS (
    SELECT r.dataset_id, p.* EXCLUDE (exposure, detector)
    FROM raw r JOIN product p ON p.exposure = r.exposure AND p.detector = r.detector
),
of_visit AS (
    SELECT r.dataset_id, p.* EXCLUDE (exposure, detector)
    FROM raw r JOIN product p ON p.exposure = r.exposure AND p.detector IS NULL
    SEMI JOIN of_detector d ON d.dataset_id = r.dataset_id
),
traced AS (
    SELECT
        dataset_id, count(*) AS products,
        max({'position': position, 'step': step, 'type': dataset_type}) FILTER (fine) AS reached,
        min({'position': position, 'step': step, 'type': dataset_type, 'site': site, 'state': state, 'reason': reason})
            FILTER (NOT fine) AS stopped
    FROM (SELECT *, state IN ('visible', 'shadowed', 'predicted_only', 'archived') AS fine FROM
          (FROM of_detector UNION ALL FROM of_visit))
    GROUP BY dataset_id
)
SELECT
    r.exposure, r.detector, r.origin, r.dataset_id, coalesce(t.products, 0) AS products,
    CASE WHEN t.dataset_id IS NULL THEN 'unprocessed' ELSE coalesce(t.stopped.state, 'complete') END AS state,
    t.reached.step AS reached_step, t.reached.type AS reached,
    t.stopped.site AS stopped_site, t.stopped.step AS stopped_step, t.stopped.type AS stopped_type,
    CASE
        WHEN t.dataset_id IS NOT NULL THEN t.stopped.reason
        WHEN v.visit IS NULL THEN 'its visit touches no tract of the campaign'
        ELSE 'no site predicted any product of it'
    END AS reason,
    t.dataset_id IS NOT NULL OR v.visit IS NULL AS explained
FROM raw r
LEFT JOIN traced t USING (dataset_id)
LEFT JOIN (SELECT DISTINCT visit FROM touched) v ON v.visit = r.visit
ORDER BY r.exposure, r.detector
