-- colour: of each star, from its own mean magnitudes where both are good, else from the reference catalogue.
-- inputs: residual (empty in the first round), star, reference_magnitude; $blue, $red: bands; $error: largest error of a mean
-- grain: one row per isolatedStarId
CREATE OR REPLACE TEMP TABLE colour AS
WITH mean AS (
  SELECT DISTINCT star, mean, s FROM residual WHERE band IN ($blue, $red)
),
own AS (
  SELECT s.isolatedStarId, max(r.mean) FILTER (s.band = $blue) - max(r.mean) FILTER (s.band = $red) AS colour
  FROM mean r
  JOIN star s USING (star)
  WHERE 1 / sqrt(r.s) <= $error
  GROUP BY s.isolatedStarId
),
catalogue AS (
  SELECT isolatedStarId, max(mag) FILTER (band = $blue) - max(mag) FILTER (band = $red) AS colour
  FROM reference_magnitude
  GROUP BY isolatedStarId
)
SELECT isolatedStarId, coalesce(own.colour, catalogue.colour) AS colour
FROM own
FULL JOIN catalogue USING (isolatedStarId)
WHERE coalesce(own.colour, catalogue.colour) IS NOT NULL
