-- judged_visit: the visits of the solution, numbered in their order, with chi squared per observation of all tracts.
-- inputs: calib_visit, calib_residual
-- grain: one row per visit
CREATE OR REPLACE TEMP TABLE judged_visit AS
WITH of_visit AS (
  SELECT visit, total(chi2) / sum(nStar) AS chi2 FROM calib_residual GROUP BY visit
)
SELECT CAST(row_number() OVER (ORDER BY visit) - 1 AS INTEGER) AS number, v.*, x.chi2
FROM calib_visit v
LEFT JOIN of_visit x USING (visit)
ORDER BY number
