-- isolated_stars: groups of detections that are one star, seen often enough, without a neighbour, in the tract's inner region.
-- inputs: star_group(star, isolated, inner, ra, dec, reserved), member(star, sourceId, visit, good): every detection of every group;
--   $skymap, $tract, $min_observations
-- grain: one row per isolated star, ordered by isolatedStarId
WITH counted AS (
  SELECT star, count(*) FILTER (good) AS nobs, count(*) AS detections, count(DISTINCT visit) AS visits
  FROM member
  GROUP BY star
)
SELECT
  CAST($tract AS INTEGER) AS tract,
  CAST($skymap AS VARCHAR) AS skymap,
  CAST($tract AS BIGINT) * 4294967296 + row_number() OVER (ORDER BY g.dec, g.ra) - 1 AS isolatedStarId,
  g.ra AS coord_ra,
  g.dec AS coord_dec,
  CAST(c.nobs AS INTEGER) AS nobs,
  g.reserved,
  g.star
FROM star_group g
JOIN counted c USING (star)
WHERE g.isolated AND g.inner
  AND c.nobs >= $min_observations
  AND c.detections = c.visits  -- two detections in one visit are two stars, or a broken one
ORDER BY isolatedStarId
