-- normal_equations: N = sum over observations of w a a^T - sum over stars of U U^T / S, between terms i <= j that share stars; times 1
--   (n11), the star's colour c (n1c) and c^2 (ncc). Flats have no part in colours. stars: how many two visits share.
-- inputs: placed_moment, visit_row, flat_row, normal_term
-- grain: one row per pair of terms
WITH parts AS (
  SELECT z AS i, z AS j, 0 AS stars, sum(w) AS n11, sum(wc) AS n1c, sum(wcc) AS ncc FROM placed_moment GROUP BY z
  UNION ALL
  SELECT z, f, 0, sum(w), sum(wc), 0 FROM placed_moment WHERE f IS NOT NULL GROUP BY z, f
  UNION ALL
  SELECT f, f, 0, sum(w), 0, 0 FROM placed_moment WHERE f IS NOT NULL GROUP BY f
  UNION ALL
  SELECT a.term, b.term, 0, exact(a.w * a.a * b.a), exact(a.w * a.a * b.a * a.c), exact(a.w * a.a * b.a * a.c * a.c)
  FROM visit_row a JOIN visit_row b ON a.star = b.star AND a.visit = b.visit AND a.term <= b.term
  WHERE a.shaped AND b.shaped AND NOT (a.plain AND b.plain)
  GROUP BY a.term, b.term
  UNION ALL
  SELECT a.term, b.term, 0, exact(a.w * a.a * b.a), exact(a.w * a.a * b.a * a.c), 0
  FROM visit_row a JOIN flat_row b ON a.star = b.star AND a.visit = b.visit
  WHERE a.shaped AND b.shaped AND NOT (a.plain AND b.plain)
  GROUP BY a.term, b.term
  UNION ALL
  SELECT a.term, b.term, 0, exact(a.w * a.a * b.a), 0, 0
  FROM flat_row a JOIN flat_row b ON a.star = b.star AND a.visit = b.visit AND a.term <= b.term
  WHERE a.shaped AND b.shaped AND NOT (a.plain AND b.plain)
  GROUP BY a.term, b.term
  UNION ALL
  SELECT a.term, b.term, count(*), -exact(a.u * b.u), -exact(a.u * b.u * a.c), -exact(a.u * b.u * a.c * a.c)
  FROM visit_row a JOIN visit_row b ON a.star = b.star AND a.term <= b.term
  GROUP BY a.term, b.term
  UNION ALL
  SELECT a.term, b.term, 0, -exact(a.u * b.u), -exact(a.u * b.u * a.c), 0
  FROM visit_row a JOIN flat_row b ON a.star = b.star
  GROUP BY a.term, b.term
  UNION ALL
  SELECT a.term, b.term, 0, -exact(a.u * b.u), 0, 0
  FROM flat_row a JOIN flat_row b ON a.star = b.star AND a.term <= b.term
  GROUP BY a.term, b.term
),
added AS (
  SELECT i, j, CAST(sum(stars) AS BIGINT) AS stars, sum(n11) AS n11, sum(n1c) AS n1c, sum(ncc) AS ncc FROM parts GROUP BY i, j
)
SELECT t.band, p.* FROM added p JOIN normal_term t ON t.term = p.i ORDER BY t.band, p.i, p.j
