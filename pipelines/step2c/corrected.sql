-- observation: without those of the reference catalogue, and with the solution's gradients over the field and polynomials over the
--   detector taken out.
-- inputs: observation, visit, suspect(visit, gradient_x, gradient_y), calib_visit, calib_flat
-- grain: one row per star and visit
CREATE OR REPLACE TEMP TABLE observation AS
SELECT o.* REPLACE (
  o.m + coalesce((s.gradient_x - coalesce(q.gradient_x, 0)) * o.xi + (s.gradient_y - coalesce(q.gradient_y, 0)) * o.eta, 0)
      + coalesce(f.t10 * o.px, 0) + coalesce(f.t01 * o.py, 0) + coalesce(f.t20 * (2 * o.px * o.px - 1), 0)
      + coalesce(f.t11 * o.px * o.py, 0) + coalesce(f.t02 * (2 * o.py * o.py - 1), 0) AS m
)
FROM observation o
JOIN visit v USING (visit)
JOIN calib_visit s USING (visit)
LEFT JOIN suspect q USING (visit)
LEFT JOIN calib_flat f ON f.band = v.band AND f.epoch = v.epoch AND f.detector = o.detector
