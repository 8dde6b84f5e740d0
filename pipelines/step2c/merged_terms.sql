-- merged_term: the terms of all tracts, numbered from 0 within each band, flats first (by the order of kinds); what tracts say of the same term is added up.
-- inputs: normal_term
-- grain: one row per band and term; local: which number (tract, term) it had
CREATE OR REPLACE TEMP TABLE numbered AS
SELECT tract, term, band, kind, if(kind = 'reference', NULL, visit) AS visit, epoch, detector, stars, nReference, weight, r1, rc,
       CAST(dense_rank() OVER (PARTITION BY band ORDER BY kind, if(kind = 'reference', NULL, visit), epoch, detector) - 1 AS INTEGER) AS number
FROM normal_term;

CREATE OR REPLACE TEMP TABLE merged_term AS
SELECT band, number, any_value(kind) AS kind, any_value(visit) AS visit, any_value(epoch) AS epoch, any_value(detector) AS detector,
       CAST(sum(stars) AS BIGINT) AS stars, CAST(sum(nReference) AS BIGINT) AS nReference,
       whole(sum(huge(weight))) AS weight, whole(sum(huge(r1))) AS r1, whole(sum(huge(rc))) AS rc
FROM numbered
GROUP BY band, number
ORDER BY band, number;
