-- detectors: the detectors of the visits of a band, by the summaries of the visits.
-- inputs: preliminary_visit_summary; $band
-- grain: one row per visit, detector, in that order
SELECT DISTINCT visit, detector FROM preliminary_visit_summary WHERE band = $band ORDER BY visit, detector
