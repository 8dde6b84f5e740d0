-- Makes: datasets with a place on the skymap: their own tract and patch or, for images, each one that their footprint touches.
-- Inputs: chosen (rows of dataset), visit_detector_patch. Grain: one row per (dataset, patch it touches).
-- imaged: the place is that of the footprint, and not in the dataset's own row.
SELECT *, false AS imaged FROM chosen WHERE tract IS NOT NULL OR visit IS NULL
UNION ALL
SELECT c.* REPLACE (o.skymap AS skymap, o.tract AS tract, o.patch AS patch), true
FROM chosen c
JOIN visit_detector_patch o ON o.instrument = c.instrument AND o.visit = c.visit AND o.detector = c.detector
WHERE c.tract IS NULL
UNION ALL
SELECT c.* REPLACE (o.skymap AS skymap, o.tract AS tract, o.patch AS patch), true
FROM chosen c
JOIN (SELECT DISTINCT instrument, visit, skymap, tract, patch FROM visit_detector_patch) o
    ON o.instrument = c.instrument AND o.visit = c.visit
WHERE c.tract IS NULL AND c.detector IS NULL
