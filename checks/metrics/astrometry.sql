-- astrometry: residuals of the astrometric fits in pixels.
-- inputs: visit_wcs (all sites). The pixel scale is that of the fitted WCS itself.
-- grain: one row per site, tract and band. rms, rms_reserved: median over (visit, detector) of the rms per coordinate, pixels
WITH scaled AS (
    SELECT
        site, tract, band, visit, detector, nStar,
        3600 * sqrt(abs(
            (wcs ->> '$.cd[0]')::DOUBLE * (wcs ->> '$.cd[3]')::DOUBLE
            - (wcs ->> '$.cd[1]')::DOUBLE * (wcs ->> '$.cd[2]')::DOUBLE)) AS arcsec_per_pixel,
        rms, rms_reserved
    FROM visit_wcs
)
SELECT
    site, tract, band, count(*) AS frames, median(nStar) AS stars,
    median(rms / arcsec_per_pixel) AS rms,
    median(rms_reserved / arcsec_per_pixel) AS rms_reserved,
    max(rms / arcsec_per_pixel) AS rms_worst
FROM scaled
GROUP BY site, tract, band
ORDER BY site, tract, band
