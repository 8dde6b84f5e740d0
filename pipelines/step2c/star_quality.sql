-- unfit: stars that scatter more than their errors allow: variables, blends.
-- inputs: residual; $star_chi2: largest chi squared per degree of freedom
-- grain: one row per star
CREATE OR REPLACE TEMP TABLE unfit AS
SELECT star
FROM residual
WHERE used
GROUP BY star
HAVING count(*) > 2 AND total(least(w * r * r, 1e6)) > $star_chi2 * (count(*) - 1)
