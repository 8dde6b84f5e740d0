-- visit_scatters: what the tracts say of the scatter of a visit beyond its errors, by the stars that each saw.
-- inputs: visit, visit_scatter(tract, visit, nStar, excess)
-- grain: one row per visit; excess is null where no star was seen
SELECT v.*, s.stars, s.excess
FROM visit v
LEFT JOIN (
  SELECT visit, sum(nStar) AS stars, sqrt(total(nStar * excess * excess) / sum(nStar)) AS excess
  FROM visit_scatter WHERE visit >= 0 GROUP BY visit
) s USING (visit)
ORDER BY v.band, v.visit
