-- merged_equations: the normal equations of one band, those of all tracts added up.
-- inputs: normal_equation, numbered; $band
-- grain: one row per pair of terms, i <= j
WITH own AS (
  SELECT tract, term, number FROM numbered WHERE band = $band
)
SELECT least(a.number, b.number) AS i, greatest(a.number, b.number) AS j, CAST(sum(n.stars) AS BIGINT) AS stars,
       whole(sum(huge(n11))) AS n11, whole(sum(huge(n1c))) AS n1c, whole(sum(huge(ncc))) AS ncc
FROM normal_equation n
JOIN own a ON a.tract = n.tract AND a.term = n.i
JOIN own b ON b.tract = n.tract AND b.term = n.j
GROUP BY ALL
ORDER BY i, j
