-- Makes: events of certifications of datasets that the destination does not have.
-- Inputs: datasets (dataset_id), theirs and ours (the table certification of the source and of the destination).
-- Grain: one row per event. Events are taken over as they are, with their times: both sites then say the same.
FROM theirs
SEMI JOIN datasets USING (dataset_id)
ANTI JOIN ours ON (theirs.collection, theirs.dataset_id, theirs.valid_begin, theirs.valid_end, theirs.noted_at)
    IS NOT DISTINCT FROM (ours.collection, ours.dataset_id, ours.valid_begin, ours.valid_end, ours.noted_at)
ORDER BY collection, dataset_id, valid_begin, noted_at
