-- unfit: stars that scatter more than their errors allow, in what is left after clipping: variables, blends.
-- inputs: residual, clipped; $star_chi2: largest chi squared per degree of freedom
-- grain: one row per star
CREATE OR REPLACE TEMP TABLE unfit AS
SELECT star
FROM residual ANTI JOIN clipped USING (star, visit)
WHERE used
GROUP BY star
HAVING count(*) > 2 AND total(least(w * r * r, 1e6)) > $star_chi2 * (count(*) - 1)
