-- Makes: the data IDs whose records an export has.
-- Inputs: views from_<table>. Grain: one row per record that stands for others (as in needed_dimensions.sql).
SELECT
    instrument, NULL::BIGINT AS exposure, NULL::BIGINT AS visit, NULL::INTEGER AS detector, NULL::VARCHAR AS physical_filter,
    NULL::VARCHAR AS band, NULL::INTEGER AS day_obs, NULL::VARCHAR AS skymap, NULL::INTEGER AS tract, NULL::INTEGER AS patch
FROM from_instrument
UNION ALL BY NAME SELECT instrument, exposure FROM from_exposure
UNION ALL BY NAME SELECT instrument, visit FROM from_visit
UNION ALL BY NAME SELECT skymap FROM from_skymap
UNION ALL BY NAME SELECT skymap, tract::INTEGER AS tract FROM from_tract
