-- visit: what is known of each visit before the fit. `nominal` is the zero point that its filter gives in a clear sky: the same wherever
--   the visit is looked at. `prior` is its preliminary zero point (median over the detectors that are known here), else the nominal
--   one; `known` says whether it was measured; `exposure` is 2.5 log10 of the seconds.
-- inputs: visit_fact (of a visit one row or several that say the same), preliminary_visit_summary, filter_prior(band, zero_point, extinction);
--   $epochs: nights (YYYYMMDD) on which a new flat epoch begins
-- grain: one row per visit
CREATE OR REPLACE TEMP TABLE visit AS
WITH of_detectors AS (
  SELECT visit, median(zeroPoint) AS zero_point
  FROM (SELECT DISTINCT visit, detector, zeroPoint FROM preliminary_visit_summary WHERE isfinite(zeroPoint))
  GROUP BY visit
),
measured AS (
  FROM (
    SELECT
      visit, min(instrument) AS instrument, min(band) AS band, min(physical_filter) AS physical_filter,
      min(day_obs) AS day_obs, min(exposure_time) AS seconds, min(airmass) AS airmass, min(mjd_mid) AS mjd,
      bool_or(absolute) AS absolute
    FROM visit_fact
    GROUP BY visit
  )
  LEFT JOIN of_detectors USING (visit)
),
nominal AS (
  SELECT m.*, 2.5 * log10(if(seconds > 0, seconds, 1)) AS exposure, f.extinction,
         f.zero_point - f.extinction * coalesce(m.airmass, 1) + 2.5 * log10(if(seconds > 0, seconds, 1)) AS nominal
  FROM measured m
  LEFT JOIN filter_prior f USING (band)
)
SELECT
  visit, instrument, band, physical_filter, day_obs, airmass, mjd, absolute, exposure, extinction,
  'epoch_' || len(list_filter($epochs :: INTEGER[], lambda night: night <= day_obs)) AS epoch,
  zero_point IS NOT NULL AS known,
  nominal,
  coalesce(zero_point, nominal) AS prior,
  nominal - zero_point AS depth
FROM nominal
ORDER BY visit
