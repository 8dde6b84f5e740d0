-- residuals: single observations of isolated stars about their mean, after the global calibration.
-- inputs: isolated_star_association, isolated_star, photo_calib of the central site ({central})
-- grain: one row per observation on a photometric visit, at most 30,000 (every k-th star)
WITH observation AS (
    SELECT a.isolatedStarId, a.band, s.reserved, p.zeroPoint - 2.5 * log10(a.instFlux) AS mag,
           1.0857362 * a.instFluxErr / a.instFlux AS err
    FROM {central}.isolated_star_association a
    JOIN {central}.isolated_star s USING (isolatedStarId)
    JOIN {central}.photo_calib p ON p.visit = a.visit AND p.detector = a.detector
    WHERE p.photometric AND a.instFlux > 0 AND a.instFluxErr > 0 AND p.zeroPoint IS NOT NULL
),
star AS (
    SELECT isolatedStarId, band, sum(mag / err ** 2) / sum(1 / err ** 2) AS mean, count(*) AS n
    FROM observation GROUP BY isolatedStarId, band HAVING count(*) >= 2
)
SELECT o.band, o.reserved, s.mean AS mag, 1000 * (o.mag - s.mean) * sqrt(s.n / (s.n - 1)) AS residual, 1000 * o.err AS err
FROM observation o JOIN star s USING (isolatedStarId, band)
WHERE hash(o.isolatedStarId) % greatest(1, (SELECT count(*) FROM observation) // 30000) = 0
ORDER BY o.isolatedStarId, o.band, o.mag
