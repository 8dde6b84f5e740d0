-- visit: what is known of each visit before the solve. `prior` is its preliminary zero point (median over the detectors), else
--   that of its band scaled by the exposure time, else the nominal one of the filter; `known` says whether it was measured.
-- inputs: preliminary_visit_summary, filter_prior(band, zero_point, extinction);
--   $epochs: nights (YYYYMMDD) on which a new flat epoch begins
-- grain: one row per visit
CREATE OR REPLACE TEMP TABLE visit AS
WITH measured AS (
  SELECT
    visit, min(instrument) AS instrument, min(band) AS band, min(physical_filter) AS physical_filter,
    min(day_obs) AS day_obs, min(exposure_time) AS seconds, min(airmass) AS airmass, min(mjd_mid) AS mjd,
    bool_or(absolute) AS absolute,
    median(zeroPoint) FILTER (isfinite(zeroPoint)) AS zero_point
  FROM preliminary_visit_summary
  GROUP BY visit
),
typical AS (
  SELECT band, median(zero_point - 2.5 * log10(seconds)) AS zero_point
  FROM measured
  WHERE seconds > 0
  GROUP BY band
)
SELECT
  m.visit, m.instrument, m.band, m.physical_filter, m.day_obs, m.airmass, m.mjd, m.absolute,
  2.5 * log10(if(m.seconds > 0, m.seconds, 1)) AS exposure,
  'epoch_' || len(list_filter($epochs :: INTEGER[], lambda night: night <= m.day_obs)) AS epoch,
  m.zero_point IS NOT NULL AS known,
  coalesce(m.zero_point,
           coalesce(t.zero_point, f.zero_point - f.extinction * coalesce(m.airmass, 1)) + exposure) AS prior,
  f.extinction
FROM measured m
LEFT JOIN typical t USING (band)
LEFT JOIN filter_prior f USING (band)
ORDER BY m.visit
