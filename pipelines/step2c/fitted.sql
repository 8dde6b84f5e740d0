-- fit: what enters the normal equations: weights w, and magnitudes m by nominal zero points (which every tract knows alike).
-- inputs: weighted, visit, suspect(visit, gradient_x, gradient_y)
-- grain: one row per star and visit
CREATE OR REPLACE TEMP TABLE fit AS
SELECT o.star, o.visit, o.detector, o.band,
       o.m + coalesce(v.nominal - v.prior, 0) - coalesce(q.gradient_x * xi + q.gradient_y * eta, 0) AS m,
       c, xi, eta, px, py, gradient, o.clouded, w
FROM weighted o
LEFT JOIN visit v USING (visit)
LEFT JOIN suspect q USING (visit)
WHERE used AND fitted;

-- place: where stars were seen. What a detector is off by itself, in any visit ($scatter, in $bands their $scatters) or under clouds
--   ($structure), it is off for all its stars: they are too many by a factor, and weigh no more than that allows.
-- inputs: fit, visit
-- grain: one row per visit, detector (the reference catalogue of a band is one)
CREATE OR REPLACE TEMP TABLE place AS
WITH unlike AS (SELECT unnest($bands :: VARCHAR[]) AS band, unnest($scatters :: DOUBLE[]) AS scatter),
known AS (SELECT fit.* EXCLUDE (m), coalesce(scatter, $scatter) AS scatter FROM fit LEFT JOIN unlike USING (band)),
crowded AS (
  SELECT visit, detector, 1 + total(w) * (any_value(scatter) ** 2 + if(any_value(clouded), $structure * $structure, 0)) AS many
  FROM known
  WHERE visit >= 0 AND (clouded OR scatter > 0)
  GROUP BY visit, detector
),
seen AS (
  SELECT visit, detector, any_value(band) AS band, any_value(gradient) AS gradient FROM fit GROUP BY visit, detector
)
SELECT CAST(row_number() OVER (ORDER BY visit, detector) - 1 AS INTEGER) AS place, visit, detector, s.band, gradient, v.epoch,
       coalesce(many, 1) AS many
FROM seen s
LEFT JOIN crowded USING (visit, detector)
LEFT JOIN visit v USING (visit)
ORDER BY place
