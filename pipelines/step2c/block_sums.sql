-- block_sums: the part of the normal equations and the right-hand side that is local to a block.
--   Terms of an observation are 1 and c, the colour of its star: n11 = sum w, n1c = sum w c, ncc = sum w c^2;
--   r1 = sum w (m - T/S), rc = sum w c (m - T/S).
-- inputs: weighted, star_sum
-- grain: one row per block
SELECT block, count(*) AS stars, total(w) AS n11, total(w * c) AS n1c, total(w * c * c) AS ncc,
       total(w * (m - t / s)) AS r1, total(w * c * (m - t / s)) AS rc
FROM weighted
JOIN star_sum USING (star)
WHERE used AND fitted
GROUP BY block
ORDER BY block
