-- Makes: the events that end validity for a time: every range that meets it is removed, and what it has outside is certified.
-- Inputs: certification_now; parameters: collection, type, begin and end (MJD), ids (null: all), noted.
-- Grain: one row per event.
WITH hit AS (
    SELECT *
    FROM certification_now
    WHERE collection = $collection AND dataset_type = $type AND valid_begin < $end AND valid_end > $begin
      AND ($ids::VARCHAR[] IS NULL OR list_contains($ids::VARCHAR[], dataset_id))
)
SELECT *, true AS removed, $noted::TIMESTAMPTZ AS noted_at FROM hit
UNION ALL
SELECT * REPLACE ($begin::DOUBLE AS valid_end), false, $noted::TIMESTAMPTZ FROM hit WHERE valid_begin < $begin
UNION ALL
SELECT * REPLACE ($end::DOUBLE AS valid_begin), false, $noted::TIMESTAMPTZ FROM hit WHERE valid_end > $end
ORDER BY ALL
