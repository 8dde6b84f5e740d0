-- local_zero: better zero points, from the weighted residuals of what is left after clipping (of a visit of which nothing is left, of all). Where every star has its mean, a step
--   towards the residuals of the detector (drawn to its visit's and its flat's where it has few stars) is one step of the alternating fit.
-- inputs: residual, clipped, unfit, local_zero, visit; $few
-- grain: one row per visit, detector
CREATE OR REPLACE TEMP TABLE local_zero AS
WITH judged AS (
  SELECT r.visit, r.detector, r.r, x.star IS NULL AND u.star IS NULL AS good, if(good, r.w, 1e-6 * r.w) AS w
  FROM residual r
  LEFT JOIN clipped x ON x.star = r.star AND x.visit = r.visit
  LEFT JOIN unfit u ON u.star = r.star
  WHERE r.used
),
of_block AS (
  SELECT visit, detector, count(*) FILTER (good) AS n, total(w * r) AS wr, total(w) AS w FROM judged GROUP BY visit, detector
),
of_visit AS (
  SELECT visit, total(wr) / total(w) AS r FROM of_block GROUP BY visit
),
beyond AS (
  SELECT b.visit, b.detector, s.band, s.epoch, b.n, b.w, v.r AS of_visit, b.wr / b.w - v.r AS r
  FROM of_block b
  JOIN of_visit v USING (visit)
  LEFT JOIN visit s USING (visit)
),
of_flat AS (
  SELECT band, epoch, detector, total(w * r) / total(w) * sum(n) / (sum(n) + $few) AS r
  FROM beyond WHERE band IS NOT NULL GROUP BY band, epoch, detector
)
SELECT z.visit, z.detector,
       z.zero - coalesce(b.of_visit + coalesce(f.r, 0) + b.n / (b.n + $few) * (b.r - coalesce(f.r, 0)), v.r, 0) AS zero
FROM local_zero z
LEFT JOIN beyond b USING (visit, detector)
LEFT JOIN of_visit v USING (visit)
LEFT JOIN of_flat f ON f.band = b.band AND f.epoch = b.epoch AND f.detector = b.detector
