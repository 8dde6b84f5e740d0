-- local_slope: how the residuals of a visit go with the colours of its stars (mag per mag), drawn to zero by a prior.
-- inputs: residual, clipped, unfit, local_slope; $prior: its error
-- grain: one row per visit
CREATE OR REPLACE TEMP TABLE local_slope AS
WITH sums AS (
  SELECT visit, total(w) AS w, total(w * c) AS wc, total(w * c * c) AS wcc, total(w * r) AS wr, total(w * r * c) AS wrc
  FROM residual ANTI JOIN clipped USING (star, visit) ANTI JOIN unfit USING (star) WHERE used GROUP BY visit
)
SELECT visit, coalesce(o.slope, 0) - (wrc - wr * wc / w) / (greatest(wcc - wc * wc / w, 0) + 1 / ($prior * $prior)) AS slope
FROM sums
LEFT JOIN local_slope o USING (visit)
