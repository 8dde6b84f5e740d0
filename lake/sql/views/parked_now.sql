-- parked_now: the latest verdict on everything that ever had to wait or was refused.
-- Inputs: parked (append-only events). Grain: one row per (site, dataset_id, content): two contents may claim one id.
SELECT *
FROM parked
QUALIFY row_number() OVER (
    PARTITION BY site, dataset_id, record ->> 'checksum'
    ORDER BY noted_at DESC, list_position(['parked', 'rejected', 'admitted', 'resolved'], state) DESC
) = 1
