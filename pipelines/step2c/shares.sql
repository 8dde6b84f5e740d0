-- shares: every observation as the detector of a visit that has it (block: row of calib_residual), its weight w there (0: reserved), its
--   share h in the mean of its star (0 of reference catalogues, which are no detectors), and whether its visit is under clouds.
-- inputs: residual, calib_residual, calib_visit
-- grain: one row per star and visit
WITH block AS (
  SELECT visit, detector, CAST(row_number() OVER (ORDER BY visit, detector) - 1 AS INTEGER) AS block FROM calib_residual
)
SELECT CAST(r.star AS INTEGER) AS star, b.block, if(r.fitted, r.w, 0) AS w, if(r.visit < 0, 0, r.h) AS h,
       NOT coalesce(v.photometric, true) AS clouded
FROM residual r
JOIN block b USING (visit, detector)
LEFT JOIN calib_visit v USING (visit)
WHERE r.used
