-- visit_row, flat_row: the design matrix. An observation has a row for each of its terms: a, the term's factor, and u = w a / sqrt(S).
--   plain: the factor is one (zero points, flats); shaped: some row of the observation has another (gradients, polynomials).
-- inputs: fit, visit, normal_term
-- grain: one row per star, visit and term
CREATE OR REPLACE TEMP TABLE visit_row AS
WITH own AS (
  SELECT term, visit, kind FROM normal_term WHERE NOT starts_with(kind, 'flat')
),
observed AS (
  SELECT *, gradient OR EXISTS (FROM normal_term WHERE starts_with(kind, 'flat_')) AS shaped FROM fit
)
SELECT f.star, f.visit, t.term, 1 :: DOUBLE AS a, f.w, f.w / sqrt(f.s) AS u, f.c, f.d, true AS plain, f.shaped
FROM observed f JOIN own t ON t.visit = f.visit AND t.kind IN ('zero_point', 'reference')
UNION ALL
SELECT f.star, f.visit, t.term, f.xi, f.w, f.w * f.xi / sqrt(f.s), f.c, f.d, false, true
FROM fit f JOIN own t ON t.visit = f.visit AND t.kind = 'gradient_x' WHERE f.gradient
UNION ALL
SELECT f.star, f.visit, t.term, f.eta, f.w, f.w * f.eta / sqrt(f.s), f.c, f.d, false, true
FROM fit f JOIN own t ON t.visit = f.visit AND t.kind = 'gradient_y' WHERE f.gradient;

CREATE OR REPLACE TEMP TABLE flat_row AS
WITH own AS (
  SELECT t.term, t.kind, v.visit, t.detector FROM normal_term t JOIN visit v USING (band, epoch) WHERE starts_with(t.kind, 'flat')
),
placed AS (
  SELECT f.star, f.visit, f.w, f.s, f.d, t.term, t.kind = 'flat' AS plain,
         f.gradient OR EXISTS (FROM normal_term WHERE starts_with(kind, 'flat_')) AS shaped,
         CASE t.kind
           WHEN 'flat' THEN 1
           WHEN 'flat_10' THEN f.px
           WHEN 'flat_01' THEN f.py
           WHEN 'flat_20' THEN 2 * f.px * f.px - 1
           WHEN 'flat_11' THEN f.px * f.py
           WHEN 'flat_02' THEN 2 * f.py * f.py - 1
         END AS a
  FROM fit f
  JOIN own t ON t.visit = f.visit AND t.detector = f.detector
)
SELECT star, visit, term, a :: DOUBLE AS a, w, w * a / sqrt(s) AS u, d, plain, shaped FROM placed WHERE a IS NOT NULL;

-- placed_moment: the moments with their terms, z of the visit and f of the flat
CREATE OR REPLACE TEMP TABLE placed_moment AS
SELECT z.term AS z, f.term AS f, m.* EXCLUDE (band, visit, detector, gradient, epoch)
FROM moment m
JOIN normal_term z ON z.visit = m.visit AND z.kind IN ('zero_point', 'reference')
LEFT JOIN normal_term f ON f.kind = 'flat' AND f.band = m.band AND f.epoch = m.epoch AND f.detector = m.detector
