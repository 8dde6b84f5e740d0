-- publication_now: the latest state of every release at every distribution site.
-- Inputs: publication (append-only events). Grain: one row per (site, release); site is the destination's lake.
SELECT *
FROM publication
QUALIFY row_number() OVER (PARTITION BY site, release ORDER BY noted_at DESC) = 1
