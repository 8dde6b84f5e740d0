-- Outlines and depths of the detector images of one band.
-- inputs: visit_detector_table; parameter $band
-- grain: visit, detector; in this order, as sums over them must not depend on the order of files
SELECT ra0, dec0, ra1, dec1, ra2, dec2, ra3, dec3, magLim
FROM visit_detector_table
WHERE band = $band AND zeroPoint IS NOT NULL
ORDER BY visit, detector
