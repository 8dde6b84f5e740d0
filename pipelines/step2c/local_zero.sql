-- local_zero: better zero points, from the weighted residuals of what is left after clipping. Where every star has its mean, a step
--   towards the residuals of the detector (drawn to its visit's where it has few stars) is one step of the alternating fit.
-- inputs: residual, local_zero; $few
-- grain: one row per visit, detector
CREATE OR REPLACE TEMP TABLE local_zero AS
WITH of_block AS (
  SELECT visit, detector, count(*) AS n, total(w * r) AS wr, total(w) AS w FROM residual WHERE used GROUP BY visit, detector
),
of_visit AS (
  SELECT visit, total(wr) / total(w) AS r FROM of_block GROUP BY visit
)
SELECT z.visit, z.detector, z.zero - coalesce(v.r + b.n / (b.n + $few) * (b.wr / b.w - v.r), v.r, 0) AS zero
FROM local_zero z
LEFT JOIN of_block b USING (visit, detector)
LEFT JOIN of_visit v USING (visit)
