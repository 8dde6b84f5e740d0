-- clipped: observations beyond $clip sigma or $limit mag from their star. Of one star only the worst, for it drags the mean;
--   one that was left out stays out while it is as far from the mean of the others.
-- inputs: residual
-- grain: one row per star and visit
CREATE OR REPLACE TEMP TABLE clipped AS
WITH judged AS (
  SELECT star, visit, used, abs(r) AS off, abs(r) / sqrt(if(used, greatest(1 - h, 1e-6) / w, 1 / w + 1 / s)) AS sigma
  FROM residual
),
far AS (
  SELECT star, visit, used, sigma FROM judged WHERE coalesce(sigma > $clip OR off > $limit, true)
)
SELECT star, visit FROM far
QUALIFY NOT used OR row_number() OVER (PARTITION BY star, used ORDER BY sigma DESC, visit) = 1
