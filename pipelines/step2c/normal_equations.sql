-- normal_equations: N = sum over observations of w a a^T - sum over stars of U U^T / S, between terms i <= j that share stars; times 1
--   (n11), the star's colour c (n1c) and c^2 (ncc). Flats have no part in colours. stars: how many two visits share.
-- inputs: visit_row, flat_row
-- grain: one row per pair of terms
WITH parts AS (
  SELECT a.term AS i, b.term AS j, 0 :: HUGEINT AS stars,
         sum(fixed(a.w * a.a * b.a)) AS n11, sum(fixed(a.w * a.a * b.a * a.c)) AS n1c, sum(fixed(a.w * a.a * b.a * a.c * a.c)) AS ncc
  FROM visit_row a JOIN visit_row b ON a.star = b.star AND a.visit = b.visit AND a.term <= b.term
  GROUP BY a.term, b.term
  UNION ALL
  SELECT a.term, b.term, 0, sum(fixed(a.w * a.a * b.a)), sum(fixed(a.w * a.a * b.a * a.c)), 0
  FROM visit_row a JOIN flat_row b ON a.star = b.star AND a.visit = b.visit
  GROUP BY a.term, b.term
  UNION ALL
  SELECT a.term, b.term, 0, sum(fixed(a.w * a.a * b.a)), 0, 0
  FROM flat_row a JOIN flat_row b ON a.star = b.star AND a.visit = b.visit AND a.term <= b.term
  GROUP BY a.term, b.term
  UNION ALL
  SELECT a.term, b.term, count(*), -sum(fixed(a.u * b.u)), -sum(fixed(a.u * b.u * a.c)), -sum(fixed(a.u * b.u * a.c * a.c))
  FROM visit_row a JOIN visit_row b ON a.star = b.star AND a.term <= b.term
  GROUP BY a.term, b.term
  UNION ALL
  SELECT a.term, b.term, 0, -sum(fixed(a.u * b.u)), -sum(fixed(a.u * b.u * a.c)), 0
  FROM visit_row a JOIN flat_row b ON a.star = b.star
  GROUP BY a.term, b.term
  UNION ALL
  SELECT a.term, b.term, 0, -sum(fixed(a.u * b.u)), 0, 0
  FROM flat_row a JOIN flat_row b ON a.star = b.star AND a.term <= b.term
  GROUP BY a.term, b.term
)
SELECT i, j, CAST(sum(stars) AS BIGINT) AS stars, whole(sum(n11)) AS n11, whole(sum(n1c)) AS n1c, whole(sum(ncc)) AS ncc
FROM parts
GROUP BY i, j
ORDER BY i, j
