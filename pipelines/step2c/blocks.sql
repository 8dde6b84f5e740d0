-- block: the groups of observations that share their terms: one per (visit, detector), and one per band for the reference
--   catalogue, which is a visit of known zero point (visit = -1, -2, ... in the order of bands, detector -1).
-- inputs: visit, preliminary_visit_summary, association
-- grain: one row per block, numbered from 0 in the order of band, visit, detector
CREATE OR REPLACE TEMP TABLE block AS
WITH pairs AS (
  SELECT visit, detector FROM preliminary_visit_summary
  UNION
  SELECT visit, detector FROM association
),
members AS (
  SELECT v.band, p.visit, p.detector, false AS reference FROM pairs p JOIN visit v USING (visit)
  UNION ALL
  SELECT band, -row_number() OVER (ORDER BY band), -1, true FROM (SELECT DISTINCT band FROM visit)
)
SELECT CAST(row_number() OVER (ORDER BY band, visit, detector) - 1 AS INTEGER) AS block, *
FROM members
ORDER BY block
