-- Makes: parked_now, the latest event of everything that was ever parked or rejected.
-- Inputs: parked (events).
-- Grain: one row per dataset and content (two contents may claim one id: one of them is rejected).
CREATE OR REPLACE TEMP VIEW parked_now AS
SELECT *, record ->> 'checksum' AS checksum
FROM parked
QUALIFY row_number() OVER (
    PARTITION BY dataset_id, record ->> 'checksum' ORDER BY noted_at DESC, state IN ('admitted', 'resolved') DESC
) = 1;
