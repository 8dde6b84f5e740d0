-- weighted: the observations with the weights of this round: clipped ones left out, errors inflated, with the star's colour.
-- inputs: observation, star, clipped(star, visit), unfit(star), scatter(visit, excess), colour(isolatedStarId, colour); variables
--   floor, reference_floor: errors added in quadrature (mag); reference_colour: the colour at which zero points hold, reach: limit
-- grain: one row per star and visit
CREATE OR REPLACE TEMP VIEW weighted AS
WITH coloured AS (
  SELECT s.star, s.band, NOT s.reserved AND u.star IS NULL AS fitted,
         greatest(least(coalesce(c.colour - getvariable('reference_colour'), 0), getvariable('reach')), -getvariable('reach')) AS c
  FROM star s
  LEFT JOIN colour c USING (isolatedStarId)
  LEFT JOIN unfit u USING (star)
),
floored AS (
  SELECT o.*, o.s2 + pow(if(o.visit < 0, getvariable('reference_floor'), getvariable('floor')), 2) AS variance FROM observation o
)
SELECT
  o.star, o.visit, o.detector, s.band, o.m, s.c, o.xi, o.eta, o.px, o.py, o.gradient, o.clouded, s.fitted, o.variance,
  1 / (o.variance + coalesce(e.excess * e.excess, 0)) AS w,
  x.star IS NULL AS used
FROM floored o
JOIN coloured s USING (star)
LEFT JOIN scatter e USING (visit)
LEFT JOIN clipped x ON x.star = o.star AND x.visit = o.visit
