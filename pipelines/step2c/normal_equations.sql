-- normal_equations: what eliminating the stars subtracts from the normal equations of two blocks that share stars:
--   sum over stars of w_i w_j / S, and the same times c and c^2 (the colour is the star's own).
-- inputs: weighted, star_sum
-- grain: one row per pair of blocks, i <= j
SELECT a.block AS i, b.block AS j, count(*) AS stars,
       total(a.w * b.w / s) AS n11, total(a.w * b.w / s * a.c) AS n1c, total(a.w * b.w / s * a.c * a.c) AS ncc
FROM weighted a
JOIN weighted b ON a.star = b.star AND a.block <= b.block
JOIN star_sum t ON t.star = a.star
WHERE a.used AND b.used AND a.fitted AND b.fitted
GROUP BY a.block, b.block
ORDER BY i, j
