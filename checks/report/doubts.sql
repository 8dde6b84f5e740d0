-- doubts: what the global calibration could not know.
-- inputs: calib_component, calib_visit, calib_night of the central site ({central}); $extinction, $colour, $water: errors of the
--   terms of a night before they are fitted
-- grain: one row per doubt: kind, band, name (of a night, a visit or a component), words
WITH component AS (
    SELECT c.*, count(*) OVER (PARTITION BY c.instrument, c.band) AS components, n.nights
    FROM {central}.calib_component c
    LEFT JOIN (
        SELECT instrument, band, component, list_sort(list(DISTINCT day_obs)) AS nights FROM {central}.calib_visit GROUP BY ALL
    ) n USING (instrument, band, component)
),
named AS (
    SELECT *, 'of visit ' || visit AS name,
           nVisit || ' visits of ' || if(len(nights) <= 3, array_to_string(nights, ', '),
                                         len(nights) || ' nights from ' || nights[1] || ' to ' || nights[-1]) AS what
    FROM component
),
found AS (
    SELECT 1 AS part, 'no reference stars' AS kind, band, name,
           what || ': rests on ' || gauge || ', ' || nReference || ' reference stars seen' AS words
    FROM named WHERE NOT absolute
    UNION ALL
    SELECT 2, 'no star shared', band, name, what || ': shares no star with the other ' || (components - 1) || ' sets of the band'
    FROM named WHERE components > 1
    UNION ALL
    SELECT 3, 'extrapolated', band, visit::VARCHAR, 'night ' || day_obs FROM {central}.calib_visit WHERE extrapolated
    UNION ALL
    SELECT 4, 'extinction not determined', band, day_obs::VARCHAR,
           printf('%.3f +- %.3f, known to %.3f before', extinction, extinctionErr, $extinction)
    FROM {central}.calib_night WHERE NOT fitted OR extinctionErr > 0.5 * $extinction
    UNION ALL
    SELECT 5, 'colour term not determined', band, day_obs::VARCHAR,
           printf('%.4f +- %.4f, known to %.4f before', colour_term, colour_termErr, $colour)
    FROM {central}.calib_night WHERE colour_termErr > 0.5 * $colour
    UNION ALL
    SELECT 6, 'water term not determined', band, day_obs::VARCHAR,
           printf('%.4f +- %.4f, known to %.4f before', water_term, water_termErr, $water)
    FROM {central}.calib_night WHERE water_termErr > 0.5 * $water
)
SELECT kind, band, name, words FROM found ORDER BY part, band, name
