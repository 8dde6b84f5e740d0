-- nights: what the global calibration found of each night: extinction, drift, colour term, water term, with their errors.
-- inputs: calib_night of the central site ({central})
-- grain: one row per band and night
SELECT band, day_obs, extinction, extinctionErr AS extinction_error, extinctionPrior AS extinction_prior, fitted, drift, driftErr AS drift_error, driftPrior AS drift_prior, colour_term, colour_termErr AS colour_error,
       colour_termPrior AS colour_prior, water_term, water_termErr AS water_error, water_termPrior AS water_prior, nVisit AS visits, nPhotometric AS photometric
FROM {central}.calib_night
ORDER BY band, day_obs
