-- calib_residuals: mean residual of each detector of a visit from the solution, in this tract, and its weight, corrected for the share of
--   each observation in its star's mean; chi squared per observation; and how far reserved stars are off. ownWeight: the weight if the
--   magnitudes of its stars were known. What others make of the residual is added by shares.py.
-- inputs: residual
-- grain: one row per visit, detector
SELECT
  any_value(band) AS band, visit, detector,
  CAST(count(*) FILTER (fitted) AS INTEGER) AS nStar,
  total(if(fitted, w * r, 0)) / greatest(total(if(fitted, w * (1 - h), 0)), 1e-9) AS residual,
  total(if(fitted, w * (1 - h), 0)) AS weight,
  CAST(total(if(fitted, w, 0)) AS FLOAT) AS ownWeight,
  total(if(fitted, least(r * r / variance, 1e6), 0)) AS chi2,
  CAST(count(*) FILTER (NOT fitted) AS INTEGER) AS nReserved,
  if(bool_and(fitted), NULL, total(if(fitted, 0, w * r)) / greatest(total(if(fitted, 0, w * (1 - h))), 1e-9)) AS reservedResidual
FROM residual
WHERE used
GROUP BY visit, detector
ORDER BY visit, detector
