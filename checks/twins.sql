-- twins: registered datasets that share their data ID with one of another run.
-- inputs: d; grain: one row per dataset
SELECT dataset_id FROM d
QUALIFY count(*) OVER (
    PARTITION BY dataset_type, instrument, exposure, visit, detector, physical_filter, band, day_obs, skymap, tract, patch) > 1
