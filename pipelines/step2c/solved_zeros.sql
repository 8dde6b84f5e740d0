-- local_zero, local_slope, scatter: the zero points and colour slopes of the global solution, relative to the preliminary zero points
--   by which this tract's magnitudes are, and the scatter of each visit. What varies over the field and the detector has been put into the magnitudes (corrected.sql).
-- inputs: calib_visit, calib_flat, visit, observation
-- grain: one row per visit, detector; per visit
CREATE OR REPLACE TEMP TABLE local_zero AS
SELECT o.visit, o.detector, s.zeroPoint - v.prior + coalesce(f."offset", 0) AS zero
FROM (SELECT DISTINCT visit, detector FROM observation WHERE visit >= 0) o
JOIN visit v USING (visit)
JOIN calib_visit s USING (visit)
LEFT JOIN calib_flat f ON f.band = v.band AND f.epoch = v.epoch AND f.detector = o.detector;

CREATE OR REPLACE TEMP TABLE local_slope AS
SELECT visit, colour_slope AS slope FROM calib_visit;

CREATE OR REPLACE TEMP TABLE scatter AS
SELECT visit, scatter AS excess FROM calib_visit;
