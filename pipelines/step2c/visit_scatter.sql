-- visit_scatter: how much the stars of a visit scatter here beyond their errors, and whether they were weighted as under clouds.
-- inputs: scatter, suspect(visit, clouded)
-- grain: one row per visit
SELECT s.visit, s.band, s.n AS nStar, s.excess, coalesce(q.clouded, false) AS clouded
FROM scatter s
LEFT JOIN suspect q USING (visit)
ORDER BY s.visit
