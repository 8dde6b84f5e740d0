-- observation: magnitudes to be fitted, by the preliminary zero points, and by their plane over the field where that may be real. The
--   reference catalogue of a band is a visit (-1, -2, ...) of one detector (-1). s2 is the variance from photons alone (of the catalogue, as it states it); xi, eta: place in the focal plane
--   (deg); px, py: place on the detector, -1 to 1; gradient: the visit gets terms for a gradient over the field; clouded: it surely needs them.
-- inputs: association, star, visit, suspect(visit, clouded, gradient_x, gradient_y), reference_magnitude, focal_plane(detector, x0, y0, xx, xy, yx, yy, cx, cy)
-- grain: one row per star and visit
CREATE OR REPLACE TEMP TABLE observation AS
SELECT s.star, a.visit, a.detector, pow(2.5 / ln(10) * a.instFluxErr / a.instFlux, 2) AS s2,
       f.x0 + f.xx * (a.x - f.cx) + f.xy * (a.y - f.cy) AS xi,
       f.y0 + f.yx * (a.x - f.cx) + f.yy * (a.y - f.cy) AS eta,
       v.prior - 2.5 * log10(a.instFlux) + coalesce(q.gradient_x * xi + q.gradient_y * eta, 0) AS m,
       (a.x - f.cx) / (f.cx + 0.5) AS px,
       (a.y - f.cy) / (f.cy + 0.5) AS py,
       q.visit IS NOT NULL AND f.detector IS NOT NULL AS gradient,
       coalesce(q.clouded, false) AS clouded
FROM association a
JOIN star s USING (isolatedStarId, band)
JOIN visit v USING (visit)
LEFT JOIN suspect q USING (visit)
LEFT JOIN focal_plane f ON f.detector = a.detector
UNION ALL
SELECT s.star, -dense_rank() OVER (ORDER BY band), -1, r.magErr * r.magErr, NULL, NULL, r.mag, NULL, NULL, false, false
FROM reference_magnitude r
JOIN star s USING (isolatedStarId, band)
