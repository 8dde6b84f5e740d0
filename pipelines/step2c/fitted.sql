-- fit: what enters the normal equations: weights w, S = sum w of the star, and d = m - (sum w m) / S. The stars that a cloud dims on one
--   detector do so together: where a visit has gradient terms, a detector weighs no more than $structure mag allows.
-- inputs: weighted
-- grain: one row per star and visit
CREATE OR REPLACE TEMP TABLE fit AS
WITH chosen AS MATERIALIZED (
  SELECT star, visit, detector, band, m, c, xi, eta, px, py, gradient, w FROM weighted WHERE used AND fitted
),
crowded AS (
  SELECT visit, detector, 1 + total(w) * $structure * $structure AS many FROM chosen WHERE gradient GROUP BY visit, detector
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
