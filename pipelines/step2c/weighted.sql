-- weighted: the observations of this round: clipped ones left out, errors inflated, with the star's colour.
-- inputs: observation, block, star, clipped(star, block), unfit(star), scatter(visit, excess), colour(isolatedStarId, colour);
--   $floor, $reference_floor: errors added in quadrature (mag); $pivot: colour at which zero points hold, $reach: limit
-- grain: one row per star and block
CREATE OR REPLACE TEMP TABLE weighted AS
SELECT
  o.star, o.block, o.m,
  greatest(least(coalesce(c.colour - $pivot, 0), $reach), -$reach) AS c,
  o.s2 + pow(if(b.reference, $reference_floor, $floor), 2) AS variance,
  1 / (o.s2 + pow(if(b.reference, $reference_floor, $floor), 2) + coalesce(e.excess * e.excess, 0)) AS w,
  NOT s.reserved AND u.star IS NULL AS fitted,
  x.star IS NULL AS used
FROM observation o
JOIN block b USING (block)
JOIN star s USING (star)
LEFT JOIN colour c USING (isolatedStarId)
LEFT JOIN scatter e USING (visit)
LEFT JOIN unfit u USING (star)
LEFT JOIN clipped x ON x.star = o.star AND x.block = o.block
