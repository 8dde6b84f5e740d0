-- design_rows: each observation with its weight and its place, in the order that sums are made in.
-- inputs: fit, place
-- grain: one row per star and visit
SELECT f.star, p.place, f.w / p.many AS w, f.m, f.c, f.xi, f.eta, f.px, f.py
FROM fit f
JOIN place p ON p.visit = f.visit AND p.detector = f.detector
ORDER BY f.band, f.star, f.visit
