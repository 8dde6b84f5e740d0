-- Makes: collections that datasets are in or are certified in, and the chains over these, which the destination does not know or knows otherwise.
-- Inputs: datasets (dataset_id, run), certification of the source, theirs and ours (the table collection of both).
-- Grain: one row per collection, as the source defines it now; a definition of the destination's own that is newer stays.
WITH RECURSIVE their_now AS (
    SELECT * FROM theirs QUALIFY row_number() OVER (PARTITION BY collection ORDER BY noted_at DESC) = 1
),
our_now AS (
    SELECT * FROM ours QUALIFY row_number() OVER (PARTITION BY collection ORDER BY noted_at DESC) = 1
),
needed AS (
    (SELECT run AS collection FROM datasets UNION SELECT collection FROM certification SEMI JOIN datasets USING (dataset_id))
    UNION
    SELECT t.collection
    FROM their_now t
    JOIN needed n ON list_contains(string_split(t.children, ','), n.collection)
)
SELECT t.*
FROM their_now t
SEMI JOIN needed USING (collection)
LEFT JOIN our_now o USING (collection)
WHERE o.collection IS NULL
   OR ((o.kind, o.children) IS DISTINCT FROM (t.kind, t.children) AND o.noted_at < t.noted_at)
ORDER BY t.collection
