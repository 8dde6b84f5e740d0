-- Makes: pairs of certifications that claim one time for one detector and filter.
-- Inputs: given (new rows of certification), certification (the ranges that are valid now).
-- Grain: one row per pair; must be empty before given is written.
SELECT
    a.collection, a.dataset_type, a.instrument, a.detector, a.physical_filter,
    a.dataset_id AS dataset_id, a.valid_begin, a.valid_end,
    b.dataset_id AS other_id, b.valid_begin AS other_begin, b.valid_end AS other_end
FROM given a
JOIN (FROM given UNION ALL FROM certification) b
    ON a.collection = b.collection
    AND a.dataset_type = b.dataset_type
    AND a.instrument = b.instrument
    AND a.detector IS NOT DISTINCT FROM b.detector
    AND a.physical_filter IS NOT DISTINCT FROM b.physical_filter
    AND a.valid_begin < b.valid_end
    AND b.valid_begin < a.valid_end
    AND (a.dataset_id, a.valid_begin, a.valid_end) <> (b.dataset_id, b.valid_begin, b.valid_end)
ORDER BY a.dataset_type, a.detector, a.valid_begin
LIMIT 1
