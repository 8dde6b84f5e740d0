-- association: usable observations of isolated stars, each star once in a visit (of duplicates the first source is kept).
-- inputs: isolated_star_association, isolated_star, visit
-- grain: one row per isolatedStarId, visit
CREATE OR REPLACE TEMP TABLE association AS
SELECT DISTINCT ON (a.isolatedStarId, a.visit)
  a.isolatedStarId, a.visit, a.detector, v.band, a.instFlux, a.instFluxErr
FROM isolated_star_association a
JOIN visit v USING (visit)
SEMI JOIN isolated_star s USING (isolatedStarId)
WHERE isfinite(a.instFlux) AND isfinite(a.instFluxErr) AND a.instFlux > 0 AND a.instFluxErr > 0
ORDER BY a.isolatedStarId, a.visit, a.sourceId, a.detector, a.instFlux, a.instFluxErr
