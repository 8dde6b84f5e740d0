-- repeatability: how well bright isolated stars repeat after the global calibration, over photometric visits.
-- inputs: isolated_star_association, isolated_star, photo_calib of the central site ({central} is its schema)
-- grain: one row per band and sample (fitted, reserved). Stars brighter than 10 mmag of photon noise, seen at least twice.
-- repeatability: robust rms (1.4826 MAD) of residuals from the star's weighted mean, mmag; excess: beyond the photon noise
WITH observation AS (
    SELECT
        a.isolatedStarId, a.band, s.reserved,
        p.zeroPoint - 2.5 * log10(a.instFlux) AS mag,
        1.0857362 * a.instFluxErr / a.instFlux AS err
    FROM {central}.isolated_star_association a
    JOIN {central}.isolated_star s USING (isolatedStarId)
    JOIN {central}.photo_calib p ON p.visit = a.visit AND p.detector = a.detector
    WHERE p.photometric AND a.instFlux > 0 AND a.instFluxErr > 0
),
star AS (
    SELECT isolatedStarId, band, count(*) AS n, sum(mag / err ** 2) / sum(1 / err ** 2) AS mean, median(err) AS err
    FROM observation
    GROUP BY isolatedStarId, band
    HAVING count(*) >= 2 AND median(err) < 0.010
),
residual AS (
    SELECT o.band, o.reserved, o.isolatedStarId, (o.mag - s.mean) * sqrt(s.n / (s.n - 1)) AS r, o.err
    FROM observation o JOIN star s USING (isolatedStarId, band)
)
SELECT
    band, if(reserved, 'reserved', 'fitted') AS sample,
    count(DISTINCT isolatedStarId) AS stars, count(*) AS observations,
    1000 * 1.4826 * median(abs(r)) AS repeatability,
    1000 * median(err) AS photon_noise,
    1000 * sqrt(greatest(0, (1.4826 * median(abs(r))) ** 2 - median(err) ** 2)) AS excess
FROM residual
GROUP BY band, reserved
ORDER BY band, sample
