-- right_hand_sides: r = sum of w a (m - T / S) for each term (r1), and the same times the colour (rc); weight = sum of w a^2.
-- inputs: visit_row, flat_row, normal_term
-- grain: one row per term
WITH sums AS (
  SELECT term, count(*) AS stars, total(w * a * a) AS weight, total(w * a * d) AS r1, total(w * a * d * c) AS rc
  FROM visit_row GROUP BY term
  UNION ALL
  SELECT term, count(*), total(w * a * a), total(w * a * d), 0 FROM flat_row GROUP BY term
)
SELECT t.term, t.band, t.kind, t.visit, t.epoch, t.detector, s.stars, s.weight, s.r1, s.rc
FROM normal_term t
JOIN sums s USING (term)
ORDER BY t.term
