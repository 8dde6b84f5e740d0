-- detector_residuals: mean residual g of each block and its weight W, corrected for the share of the block in its stars' means.
-- inputs: residual, block
-- grain: one row per block that has fitted observations
SELECT b.block, b.visit, count(*) AS n,
       total(r.w * r.r) / greatest(total(r.w * (1 - r.h)), 1e-9) AS g, total(r.w * (1 - r.h)) AS weight
FROM residual r
JOIN block b USING (block)
WHERE r.used AND r.fitted AND NOT b.reference
GROUP BY b.block, b.visit
ORDER BY b.block
