-- star_sum: S = sum w and T = sum w m of each fitted star.
-- inputs: weighted
-- grain: one row per star
CREATE OR REPLACE TEMP TABLE star_sum AS
SELECT star, total(w) AS s, total(w * m) AS t
FROM weighted
WHERE used AND fitted
GROUP BY star
