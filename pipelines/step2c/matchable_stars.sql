-- matchable_stars: isolated stars seen on at least one detector whose coordinates are those of the sky.
-- inputs: association, isolated_star, preliminary_visit_summary
-- grain: one row per isolatedStarId
SELECT DISTINCT ON (s.isolatedStarId) s.isolatedStarId, s.coord_ra AS ra, s.coord_dec AS dec
FROM isolated_star s
SEMI JOIN (SELECT a.isolatedStarId FROM association a JOIN preliminary_visit_summary v USING (visit, detector) WHERE v.absolute) t USING (isolatedStarId)
ORDER BY s.isolatedStarId
