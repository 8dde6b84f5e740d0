-- visit_fact: what the summary of a visit says of the whole visit.
-- inputs: preliminary_visit_summary
-- grain: one row per visit
SELECT visit, min(instrument) AS instrument, min(band) AS band, min(physical_filter) AS physical_filter, min(day_obs) AS day_obs,
       min(exposure_time) AS exposure_time, min(airmass) AS airmass, min(mjd_mid) AS mjd_mid, bool_or(absolute) AS absolute
FROM preliminary_visit_summary
GROUP BY visit
ORDER BY visit
