-- dia_source_visit: the difference sources of a visit in one tract, each with its object.
-- Inputs: dia_source (step 4, all detectors of the visit), dia_association (step 5, the tract).
-- Grain: diaSourceId. Parameters: $visit, $tract. Columns: as declared, without site.
-- A source that belongs to no object (flagged, and none near) is kept, with diaObjectId null.
SELECT
    s.tract,
    s.skymap,
    s.visit,
    s.detector,
    s.instrument,
    s.band,
    s.physical_filter,
    s.diaSourceId,
    a.diaObjectId,
    s.midpointMjdTai,
    s.coord_ra,
    s.coord_dec,
    s.psfFlux,
    s.psfFluxErr,
    s.snr,
    s.isDipole,
    s.flag_bad
FROM dia_source s
LEFT JOIN dia_association a ON a.diaSourceId = s.diaSourceId
WHERE s.visit = $visit AND s.tract = $tract
ORDER BY s.diaSourceId
