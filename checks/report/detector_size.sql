-- detector_size: how large a detector is on the sky.
-- inputs: visit_detector_region of the central site ({central})
-- grain: one row. size: median extent in declination (deg)
SELECT median(greatest(dec0, dec1, dec2, dec3) - least(dec0, dec1, dec2, dec3)) AS size FROM {central}.visit_detector_region
