-- moment: sums over the observations of a detector in a visit, of weights and of deviations d, times 1 and the colour c.
-- inputs: fit, visit
-- grain: one row per visit and detector
CREATE OR REPLACE TEMP TABLE moment AS
SELECT f.*, v.epoch
FROM (
  SELECT band, visit, detector, gradient, count(*) AS stars, exact(w) AS w, exact(w * c) AS wc, exact(w * c * c) AS wcc,
         exact(w * d) AS wd, exact(w * d * c) AS wdc
  FROM fit GROUP BY ALL
) f
LEFT JOIN visit v USING (visit)
