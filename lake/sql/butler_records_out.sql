-- Makes: views butler_<element>, dimension records in the columns of the Butler's default dimension universe (version 8).
-- Inputs: views needed_<table> (needed_dimensions.sql), datasets; region_<table> of visit_detector_region, visit, tract and
--         patch: the keys of those tables and region (the bytes of a polygon).
-- Grain: one row per record of the element.
-- A Butler wants what we do not have: an exposure's group and obs_id are its number, a visit is of the visit system 0
-- (one exposure each), a frame without filter has the filter "unknown", ids are below 10^14.
CREATE OR REPLACE TEMP MACRO mjd_ns(mjd) AS
    (floor(mjd)::BIGINT - 40587) * 86400000000000 + round((mjd - floor(mjd)) * 86400e9)::BIGINT;
CREATE OR REPLACE TEMP MACRO half_ns(seconds) AS round(ifnull(seconds, 0) * 5e8)::BIGINT;
CREATE OR REPLACE TEMP MACRO zenith(airmass) AS CASE WHEN airmass >= 1 THEN degrees(acos(1 / airmass)) END;

CREATE TEMP VIEW butler_instrument AS
    SELECT
        instrument AS name,
        100000000000000 AS visit_max,
        0 AS visit_system,
        100000000000000 AS exposure_max,
        greatest(detector_count, ifnull(d.above, 0))::BIGINT AS detector_max,
        class_name
    FROM needed_instrument
    LEFT JOIN (SELECT instrument, max(detector) + 1 AS above FROM needed_detector GROUP BY instrument) d USING (instrument)
    ORDER BY ALL;

CREATE TEMP VIEW butler_skymap AS
    SELECT
        skymap AS name,
        from_hex(sha1(to_json(s)::VARCHAR)) AS hash,
        tracts AS tract_max,
        patches_per_side AS patch_nx_max,
        patches_per_side AS patch_ny_max
    FROM needed_skymap s
    ORDER BY name;

CREATE TEMP VIEW butler_day_obs AS
    SELECT DISTINCT instrument, day_obs AS id, NULL::TIMESTAMP_NS AS datetime_begin, NULL::TIMESTAMP_NS AS datetime_end
    FROM (
        SELECT instrument, day_obs FROM needed_exposure
        UNION ALL SELECT instrument, day_obs FROM needed_visit
        UNION ALL SELECT instrument, day_obs FROM datasets WHERE instrument IS NOT NULL AND day_obs IS NOT NULL
    )
    ORDER BY ALL;

CREATE TEMP VIEW butler_detector AS
    SELECT
        instrument,
        detector AS id,
        ifnull(full_name, detector::VARCHAR) AS full_name,
        NULL::VARCHAR AS name_in_raft,
        NULL::VARCHAR AS raft,
        purpose
    FROM needed_detector
    ORDER BY ALL;

CREATE TEMP VIEW butler_group AS
    SELECT instrument, exposure::VARCHAR AS name FROM needed_exposure ORDER BY ALL;

CREATE TEMP VIEW butler_physical_filter AS
    SELECT instrument, physical_filter AS name, band FROM needed_physical_filter
    UNION
    SELECT instrument, ifnull(physical_filter, 'unknown') AS name, ifnull(band, 'unknown') AS band
    FROM needed_exposure e
    ANTI JOIN needed_physical_filter f ON f.instrument = e.instrument AND f.physical_filter = e.physical_filter
    ORDER BY ALL;

CREATE TEMP VIEW butler_tract AS
    SELECT skymap, tract AS id, region FROM region_tract ORDER BY ALL;

CREATE TEMP VIEW butler_visit_system AS
    SELECT DISTINCT instrument, 0 AS id, 'one-to-one' AS name FROM needed_visit ORDER BY ALL;

CREATE TEMP VIEW butler_exposure AS
    SELECT
        instrument,
        exposure AS id,
        day_obs,
        exposure::VARCHAR AS "group",
        ifnull(physical_filter, 'unknown') AS physical_filter,
        exposure::VARCHAR AS obs_id,
        exposure_time,
        observation_type,
        seq_num,
        target_name,
        ra AS tracking_ra,
        dec AS tracking_dec,
        rotation AS sky_angle,
        zenith(airmass) AS zenith_angle,
        make_timestamp_ns(mjd_ns(mjd_mid) - half_ns(exposure_time)) AS datetime_begin,
        make_timestamp_ns(mjd_ns(mjd_mid) + half_ns(exposure_time)) AS datetime_end
    FROM needed_exposure
    ORDER BY instrument, id;

CREATE TEMP VIEW butler_patch AS
    SELECT r.skymap, r.tract, r.patch AS id, r.patch % s.patches_per_side AS cell_x, r.patch // s.patches_per_side AS cell_y, region
    FROM region_patch r
    JOIN needed_skymap s USING (skymap)
    ORDER BY ALL;

CREATE TEMP VIEW butler_visit AS
    SELECT
        v.instrument,
        v.visit AS id,
        v.day_obs,
        v.physical_filter,
        v.visit::VARCHAR AS name,
        e.seq_num,
        v.exposure_time,
        e.target_name,
        zenith(v.airmass) AS zenith_angle,
        r.region,
        make_timestamp_ns(mjd_ns(v.mjd_mid) - half_ns(v.exposure_time)) AS datetime_begin,
        make_timestamp_ns(mjd_ns(v.mjd_mid) + half_ns(v.exposure_time)) AS datetime_end
    FROM needed_visit v
    LEFT JOIN needed_exposure e ON e.instrument = v.instrument AND e.exposure = v.exposure
    LEFT JOIN region_visit r ON r.instrument = v.instrument AND r.visit = v.visit
    ORDER BY v.instrument, v.visit;

CREATE TEMP VIEW butler_visit_definition AS
    SELECT instrument, exposure, visit FROM needed_visit ORDER BY ALL;

CREATE TEMP VIEW butler_visit_detector_region AS
    SELECT instrument, detector, visit, region FROM region_visit_detector_region ORDER BY instrument, visit, detector;

CREATE TEMP VIEW butler_visit_system_membership AS
    SELECT instrument, 0 AS visit_system, visit FROM needed_visit ORDER BY ALL;
