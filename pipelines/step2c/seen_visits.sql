-- seen_visit: the observations of a visit that tracts fitted, how much they scatter beyond their errors, by the stars that each saw;
--   whether a tract weighted them as under clouds. A visit of which every observation was left out has not been seen.
-- inputs: visit, visit_scatter(tract, visit, nStar, excess), normal_term(kind, visit, stars)
-- grain: one row per visit; stars and excess are null where no observation was fitted
SELECT v.*, t.stars, s.excess, coalesce(s.clouded, false) AS clouded
FROM visit v
LEFT JOIN (SELECT visit, CAST(sum(stars) AS BIGINT) AS stars FROM normal_term WHERE kind = 'zero_point' GROUP BY visit) t USING (visit)
LEFT JOIN (
  SELECT visit, bool_or(clouded) AS clouded, sqrt(total(nStar * excess * excess) / sum(nStar)) AS excess
  FROM visit_scatter WHERE visit >= 0 GROUP BY visit
) s USING (visit)
ORDER BY v.band, v.visit
