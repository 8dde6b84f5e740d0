-- seen_visit: what the tracts say of the scatter of a visit beyond its errors, by the stars that each saw; whether a tract weighted them as
--   under clouds.
-- inputs: visit, visit_scatter(tract, visit, nStar, excess)
-- grain: one row per visit; excess is null where no star was seen
SELECT v.*, s.stars, s.excess, coalesce(s.clouded, false) AS clouded
FROM visit v
LEFT JOIN (
  SELECT visit, bool_or(clouded) AS clouded, sum(nStar) AS stars, sqrt(total(nStar * excess * excess) / sum(nStar)) AS excess
  FROM visit_scatter WHERE visit >= 0 GROUP BY visit
) s USING (visit)
ORDER BY v.band, v.visit
