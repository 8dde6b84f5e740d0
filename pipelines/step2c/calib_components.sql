-- calib_components: sets of visits that hold together by the stars they share, and what their zero points rest on.
-- inputs: solved_component
-- grain: one row per band, component
SELECT (SELECT min(instrument) FROM seen_visit) AS instrument, band, CAST(component AS INTEGER) AS component, first_visit AS visit,
       CAST(visits AS INTEGER) AS nVisit, CAST(nights AS INTEGER) AS nNight, CAST(observations AS BIGINT) AS nStar,
       CAST("references" AS BIGINT) AS nReference, absolute, gauge
FROM solved_component
ORDER BY band, component
