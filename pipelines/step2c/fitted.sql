-- fit: what enters the normal equations: weights w, S = sum w of the star, and d = m - (sum w m) / S, magnitudes by nominal zero points
--   (which every tract knows alike). What a detector is off by itself, in any visit ($scatter) or under clouds ($structure), it is
--   off for all its stars: it weighs no more than that allows.
-- inputs: weighted, visit
-- grain: one row per star and visit
CREATE OR REPLACE TEMP TABLE fit AS
WITH chosen AS MATERIALIZED (
  SELECT o.star, o.visit, o.detector, o.band, o.m + coalesce(v.nominal - v.prior, 0) AS m, c, xi, eta, px, py, gradient, clouded, w
  FROM weighted o
  LEFT JOIN visit v USING (visit)
  WHERE used AND fitted
),
crowded AS (
  SELECT visit, detector, 1 + total(w) * ($scatter * $scatter + if(any_value(clouded), $structure * $structure, 0)) AS many
  FROM chosen
  WHERE visit >= 0 AND (clouded OR $scatter > 0)
  GROUP BY visit, detector
),
lightened AS MATERIALIZED (
  SELECT o.* REPLACE (o.w / coalesce(many, 1) AS w) FROM chosen o LEFT JOIN crowded USING (visit, detector)
),
sums AS (
  SELECT star, total(w) AS s, total(w * m) AS t FROM lightened GROUP BY star
)
SELECT o.*, s, m - t / s AS d
FROM lightened o
JOIN sums USING (star)
