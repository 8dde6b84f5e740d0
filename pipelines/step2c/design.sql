-- visit_row, flat_row: the design matrix. An observation has a row for each of its terms: a, the term's factor, and u = w a / sqrt(S).
-- inputs: fit, visit, normal_term
-- grain: one row per star, visit and term
CREATE OR REPLACE TEMP TABLE visit_row AS
WITH own AS (SELECT term, band, kind, visit FROM normal_term WHERE NOT starts_with(kind, 'flat'))
SELECT f.star, f.visit, t.term, 1 :: DOUBLE AS a, f.w, f.w / sqrt(f.s) AS u, f.c, f.d
FROM fit f JOIN own t ON t.visit = f.visit AND t.kind IN ('zero_point', 'reference')
UNION ALL
SELECT f.star, f.visit, t.term, f.xi, f.w, f.w * f.xi / sqrt(f.s), f.c, f.d
FROM fit f JOIN own t ON t.visit = f.visit AND t.kind = 'gradient_x' WHERE f.gradient
UNION ALL
SELECT f.star, f.visit, t.term, f.eta, f.w, f.w * f.eta / sqrt(f.s), f.c, f.d
FROM fit f JOIN own t ON t.visit = f.visit AND t.kind = 'gradient_y' WHERE f.gradient;

CREATE OR REPLACE TEMP TABLE flat_row AS
WITH own AS (
  SELECT t.term, t.kind, t.epoch, t.detector, t.band FROM normal_term t WHERE starts_with(kind, 'flat')
),
shaped AS (
  SELECT f.star, f.visit, f.w, f.s, f.d, t.term,
         CASE t.kind
           WHEN 'flat' THEN 1
           WHEN 'flat_10' THEN f.px
           WHEN 'flat_01' THEN f.py
           WHEN 'flat_20' THEN 2 * f.px * f.px - 1
           WHEN 'flat_11' THEN f.px * f.py
           WHEN 'flat_02' THEN 2 * f.py * f.py - 1
         END AS a
  FROM fit f
  JOIN visit v USING (visit)
  JOIN own t ON t.band = f.band AND t.epoch = v.epoch AND t.detector = f.detector
)
SELECT star, visit, term, a :: DOUBLE AS a, w, w * a / sqrt(s) AS u, d FROM shaped WHERE a IS NOT NULL;
