-- calib_residuals: mean residual of each detector of a visit from the solution, in this tract, and its weight, corrected for the share of
--   each observation in its star's mean; chi squared per observation; and how far reserved stars are off. others: if every detector of
--   every visit is off by itself, the variance of the residual grows by this factor, for the others are in the stars' means.
-- inputs: residual
-- grain: one row per visit, detector
WITH shares AS (
  SELECT star, total(h * h) AS q FROM residual WHERE used GROUP BY star
)
SELECT
  any_value(band) AS band, visit, detector,
  CAST(count(*) FILTER (fitted) AS INTEGER) AS nStar,
  total(if(fitted, w * r, 0)) / greatest(total(if(fitted, w * (1 - h), 0)), 1e-9) AS residual,
  total(if(fitted, w * (1 - h), 0)) AS weight,
  total(if(fitted, w * least((q - h * h) / pow(greatest(1 - h, 1e-3), 2), 9), 0)) / greatest(total(if(fitted, w, 0)), 1e-9) AS others,
  total(if(fitted, least(r * r / variance, 1e6), 0)) AS chi2,
  CAST(count(*) FILTER (NOT fitted) AS INTEGER) AS nReserved,
  if(bool_and(fitted), NULL, total(if(fitted, 0, w * r)) / greatest(total(if(fitted, 0, w * (1 - h))), 1e-9)) AS reservedResidual
FROM residual
JOIN shares USING (star)
WHERE used
GROUP BY visit, detector
ORDER BY visit, detector
