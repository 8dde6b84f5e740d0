-- Makes: certifications of datasets that the destination does not have.
-- Inputs: datasets (dataset_id), theirs and ours (the table certification of the source and of the destination).
-- Grain: one row per (collection, dataset_id, valid_begin).
FROM theirs
SEMI JOIN datasets USING (dataset_id)
ANTI JOIN ours USING (collection, dataset_id, valid_begin)
ORDER BY collection, dataset_id, valid_begin
