-- collection_now: collections and chains as they are defined now.
-- Inputs: collection (append-only). Grain: one row per (site, collection).
SELECT *
FROM collection
QUALIFY row_number() OVER (PARTITION BY site, collection ORDER BY noted_at DESC) = 1
