-- repeatability: how far the observations of a reserved star scatter, against what their errors say.
-- inputs: standard_star of the central site ({central})
-- grain: one row per reserved star and band, at most 20,000 (every k-th). scatter, expected: mmag; typical: the scatter over what
--   the median of so few observations falls short of their spread by (Wilson and Hilferty's median of chi squared)
WITH star AS (
    SELECT isolatedStarId, band, mag, 1000 * magStd AS scatter, 1000 * magErr * sqrt(nobs) AS expected,
           1000 * magStd / (1 - 2 / (9 * (nobs - 1))) ** 1.5 AS typical
    FROM {central}.standard_star
    WHERE reserved AND nobs >= 2 AND magStd > 0
)
SELECT band, mag, scatter, expected, typical
FROM star
WHERE hash(isolatedStarId) % greatest(1, (SELECT count(*) FROM star) // 20000) = 0
ORDER BY band, mag, isolatedStarId
