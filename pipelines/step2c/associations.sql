-- association: usable observations of isolated stars, each star once in a visit (of duplicates the first source is kept).
-- inputs: isolated_star_association, isolated_star, visit
-- grain: one row per isolatedStarId, visit
CREATE OR REPLACE TEMP TABLE association AS
WITH usable AS (
  SELECT a.isolatedStarId, a.visit, a.detector, v.band, a.sourceId, a.x, a.y, a.instFlux, a.instFluxErr
  FROM isolated_star_association a
  JOIN visit v USING (visit)
  SEMI JOIN isolated_star s USING (isolatedStarId)
  WHERE isfinite(a.instFlux) AND isfinite(a.instFluxErr) AND a.instFlux > 0 AND a.instFluxErr > 0
),
repeated AS (
  SELECT isolatedStarId, visit FROM usable GROUP BY isolatedStarId, visit HAVING count(*) > 1
),
first AS (
  FROM usable SEMI JOIN repeated USING (isolatedStarId, visit)
  QUALIFY row_number() OVER (PARTITION BY isolatedStarId, visit ORDER BY sourceId, detector, instFlux, instFluxErr) = 1
)
FROM usable ANTI JOIN repeated USING (isolatedStarId, visit)
UNION ALL
FROM first
