-- Makes: views from_<table>, dimension records in our columns, made of a Butler's; what a Butler does not know is null.
-- Inputs: butler_<element> (the records of an export; times are TAI as ISO text), corners (instrument, visit, detector, the
--         corners of regions with four vertices and their middle), exposure_known (exposure records of the site).
-- Grain: one row per record.
CREATE OR REPLACE TEMP MACRO ns_mjd(ns) AS 40587 + ns // 86400000000000 + (ns % 86400000000000) / 86400e9;
CREATE OR REPLACE TEMP MACRO middle(first, last) AS
    ns_mjd((epoch_ns(first::TIMESTAMP_NS) + epoch_ns(last::TIMESTAMP_NS)) // 2);
CREATE OR REPLACE TEMP MACRO airmass(zenith) AS CASE WHEN zenith < 90 THEN 1 / cos(radians(zenith)) END;

CREATE TEMP VIEW from_instrument AS
    SELECT
        name AS instrument,
        class_name,
        detector_max AS detector_count
    FROM butler_instrument;

CREATE TEMP VIEW from_detector AS
    SELECT
        instrument, id AS detector, full_name, purpose, NULL::INTEGER AS width, NULL::INTEGER AS height,
        NULL::DOUBLE AS x_centre, NULL::DOUBLE AS y_centre
    FROM butler_detector;

CREATE TEMP VIEW from_physical_filter AS
    SELECT instrument, name AS physical_filter, band FROM butler_physical_filter;

CREATE TEMP VIEW from_exposure AS
    SELECT
        e.instrument,
        e.id AS exposure,
        e.day_obs,
        e.seq_num,
        nullif(e.physical_filter, 'unknown') AS physical_filter,
        nullif(f.band, 'unknown') AS band,
        e.observation_type,
        e.target_name,
        middle(e.datetime_begin, e.datetime_end) AS mjd_mid,
        e.exposure_time,
        e.tracking_ra AS ra,
        e.tracking_dec AS dec,
        e.sky_angle AS rotation,
        airmass(e.zenith_angle) AS airmass
    FROM butler_exposure e
    LEFT JOIN butler_physical_filter f ON f.instrument = e.instrument AND f.name = e.physical_filter;

CREATE TEMP VIEW from_visit AS
    SELECT
        v.instrument,
        v.id AS visit,
        d.exposure,
        v.day_obs,
        v.physical_filter,
        f.band,
        middle(v.datetime_begin, v.datetime_end) AS mjd_mid,
        v.exposure_time,
        e.ra,
        e.dec,
        e.rotation,
        airmass(v.zenith_angle) AS airmass
    FROM butler_visit v
    LEFT JOIN (
        SELECT instrument, visit, any_value(exposure) AS exposure
        FROM butler_visit_definition
        GROUP BY instrument, visit
        HAVING count(DISTINCT exposure) = 1
    ) d ON d.instrument = v.instrument AND d.visit = v.id
    LEFT JOIN butler_physical_filter f ON f.instrument = v.instrument AND f.name = v.physical_filter
    LEFT JOIN (
        SELECT instrument, exposure, ra, dec, rotation FROM from_exposure
        UNION ALL
        SELECT k.instrument, k.exposure, k.ra, k.dec, k.rotation
        FROM exposure_known k
        ANTI JOIN from_exposure g ON g.instrument = k.instrument AND g.exposure = k.exposure
    ) e ON e.instrument = v.instrument AND e.exposure = d.exposure;

CREATE TEMP VIEW from_visit_detector_region AS
    SELECT instrument, visit, detector, ra, dec, ra0, dec0, ra1, dec1, ra2, dec2, ra3, dec3
    FROM corners;

CREATE TEMP VIEW from_skymap AS
    SELECT
        name AS skymap, NULL::INTEGER AS rings, NULL::DOUBLE AS pixel_scale, NULL::DOUBLE AS tract_overlap,
        NULL::INTEGER AS patch_inner, NULL::INTEGER AS patch_border, patch_nx_max AS patches_per_side, tract_max AS tracts
    FROM butler_skymap;

CREATE TEMP VIEW from_tract AS
    SELECT skymap, id AS tract FROM butler_tract;

CREATE TEMP VIEW from_patch AS
    SELECT skymap, tract, id AS patch FROM butler_patch;
