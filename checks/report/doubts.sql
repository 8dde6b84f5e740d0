-- doubts: what the global calibration could not know.
-- inputs: calib_component, calib_visit, calib_night of the central site ({central})
-- grain: one row per doubt: kind, band, name (of a set of visits that share stars, a visit, or a night), words; prior: error of a term
--   before it was fitted
WITH component AS (
    SELECT c.*, count(*) OVER (PARTITION BY c.instrument, c.band) AS components, n.nights
    FROM {central}.calib_component c
    LEFT JOIN (
        SELECT instrument, band, component, list_sort(list(DISTINCT day_obs)) AS nights FROM {central}.calib_visit GROUP BY ALL
    ) n USING (instrument, band, component)
),
named AS (
    SELECT *, 'that of visit ' || visit AS name,
           nVisit || ' visits of ' || if(len(nights) <= 3, array_to_string(nights, ', '),
                                         len(nights) || ' nights from ' || nights[1] || ' to ' || nights[-1]) AS what
    FROM component
),
found AS (
    SELECT 1 AS part, 'no reference stars' AS kind, band, name,
           what || ', on ' || gauge || '; ' || nReference || ' reference stars seen' AS words, NULL::DOUBLE AS prior
    FROM named WHERE NOT absolute
    UNION ALL
    SELECT 2, 'no star shared', band, name, what, NULL FROM named WHERE components > 1
    UNION ALL
    SELECT 3, 'extrapolated', band, visit::VARCHAR, 'night ' || day_obs, NULL FROM {central}.calib_visit WHERE extrapolated
    UNION ALL
    SELECT 4, 'extinction not determined', band, day_obs::VARCHAR, printf('%.3f ± %.3f', extinction, extinctionErr), extinctionPrior
    FROM {central}.calib_night WHERE NOT fitted OR extinctionErr > 0.5 * extinctionPrior
    UNION ALL
    SELECT 5, 'colour term not determined', band, day_obs::VARCHAR, printf('%.4f ± %.4f', round(colour_term, 4) + 0, colour_termErr),
           colour_termPrior
    FROM {central}.calib_night WHERE colour_term IS NOT NULL AND colour_termErr > 0.5 * colour_termPrior
    UNION ALL
    SELECT 6, 'water term not determined', band, day_obs::VARCHAR, printf('%.4f ± %.4f', round(water_term, 4) + 0, water_termErr),
           water_termPrior
    FROM {central}.calib_night WHERE water_term IS NOT NULL AND water_termErr > 0.5 * water_termPrior
)
SELECT kind, band, name, words, prior FROM found ORDER BY part, band, name
