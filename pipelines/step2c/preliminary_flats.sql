-- preliminary_flat: how far the preliminary zero points of a detector lie from those of its visits, in the median of an epoch.
-- inputs: preliminary_visit_summary, visit
-- grain: one row per band, epoch, detector
CREATE OR REPLACE TEMP TABLE preliminary_flat AS
SELECT v.band, v.epoch, s.detector, median(s.zeroPoint - v.prior) * count(*) / (count(*) + 1) AS zero
FROM preliminary_visit_summary s
JOIN visit v USING (visit)
WHERE isfinite(s.zeroPoint)
GROUP BY v.band, v.epoch, s.detector
