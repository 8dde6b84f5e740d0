-- Makes: views needed_<table>, the dimension records that a set of datasets refers to.
-- Inputs: datasets (data ID columns), and the dimension tables under their own names.
-- Grain: as the dimension tables.
-- A visit takes its exposure, all its regions and patches, and the tracts these lie in; a tract takes all its patches;
-- an instrument takes all its detectors and filters.
CREATE TEMP VIEW needed_instrument AS
    FROM instrument SEMI JOIN datasets USING (instrument);

CREATE TEMP VIEW needed_detector AS
    FROM detector SEMI JOIN datasets USING (instrument);

CREATE TEMP VIEW needed_physical_filter AS
    FROM physical_filter SEMI JOIN datasets USING (instrument);

CREATE TEMP VIEW needed_visit AS
    FROM visit SEMI JOIN datasets USING (instrument, visit);

CREATE TEMP VIEW needed_exposure AS
    FROM exposure SEMI JOIN (
        SELECT instrument, exposure FROM datasets UNION ALL SELECT instrument, exposure FROM needed_visit
    ) USING (instrument, exposure);

CREATE TEMP VIEW needed_visit_detector_region AS
    FROM visit_detector_region SEMI JOIN needed_visit USING (instrument, visit);

CREATE TEMP VIEW needed_visit_detector_patch AS
    FROM visit_detector_patch SEMI JOIN needed_visit USING (instrument, visit);

CREATE TEMP VIEW needed_skymap AS
    FROM skymap SEMI JOIN (
        SELECT skymap FROM datasets UNION ALL SELECT skymap FROM needed_visit_detector_patch
    ) USING (skymap);

CREATE TEMP VIEW needed_tract AS
    FROM tract SEMI JOIN (
        SELECT skymap, tract FROM datasets UNION ALL SELECT skymap, tract FROM needed_visit_detector_patch
    ) USING (skymap, tract);

CREATE TEMP VIEW needed_patch AS
    FROM patch SEMI JOIN needed_tract USING (skymap, tract);
