-- observation: magnitudes to be fitted, by the preliminary zero points; those of the reference catalogue are observations too.
--   s2 is the variance from photons alone (of the catalogue, as it states it).
-- inputs: association, star, block, visit, reference_magnitude
-- grain: one row per star and block
CREATE OR REPLACE TEMP TABLE observation AS
SELECT s.star, b.block, v.prior - 2.5 * log10(a.instFlux) AS m,
       pow(2.5 / ln(10) * a.instFluxErr / a.instFlux, 2) AS s2
FROM association a
JOIN star s USING (isolatedStarId, band)
JOIN block b USING (visit, detector)
JOIN visit v USING (visit)
UNION ALL
SELECT s.star, b.block, r.mag, r.magErr * r.magErr
FROM reference_magnitude r
JOIN star s USING (isolatedStarId, band)
JOIN block b ON b.reference AND b.band = r.band
ORDER BY 1, 2
