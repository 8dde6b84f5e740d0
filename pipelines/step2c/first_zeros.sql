-- local_zero: where the search for zero points begins: the flats of the preliminary ones. They can be large, and medians of few stars
--   find them slowly.
-- inputs: visit, preliminary_flat, observation
-- grain: one row per visit, detector
CREATE OR REPLACE TEMP TABLE local_zero AS
SELECT o.visit, o.detector, coalesce(f.zero, 0) AS zero
FROM (SELECT DISTINCT visit, detector FROM observation) o
LEFT JOIN visit v USING (visit)
LEFT JOIN preliminary_flat f ON f.band = v.band AND f.epoch = v.epoch AND f.detector = o.detector
