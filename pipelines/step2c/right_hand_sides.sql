-- right_hand_sides: r = sum of w a (m - T / S) for each term (r1), and the same times the colour (rc); weight = sum of w a^2.
-- inputs: placed_moment, visit_row, flat_row, normal_term
-- grain: one row per term
WITH sums AS (
  SELECT z AS term, sum(stars) AS stars, sum(w) AS weight, sum(wd) AS r1, sum(wdc) AS rc FROM placed_moment GROUP BY z
  UNION ALL
  SELECT f, sum(stars), sum(w), sum(wd), 0 FROM placed_moment WHERE f IS NOT NULL GROUP BY f
  UNION ALL
  SELECT term, count(*), exact(w * a * a), exact(w * a * d), exact(w * a * d * c) FROM visit_row WHERE NOT plain GROUP BY term
  UNION ALL
  SELECT term, count(*), exact(w * a * a), exact(w * a * d), 0 FROM flat_row WHERE NOT plain GROUP BY term
)
SELECT t.term, t.band, t.kind, t.visit, t.epoch, t.detector, CAST(s.stars AS BIGINT) AS stars, s.weight, s.r1, s.rc
FROM normal_term t
JOIN sums s USING (term)
ORDER BY t.term
