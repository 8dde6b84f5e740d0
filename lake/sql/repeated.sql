-- Makes: repeated, the rows whose id is in the batch twice. Inputs: given (ordinal, the columns of dataset).
-- Grain: one row per such row of given. nth counts the rows of one id: only the first can be accepted.
CREATE OR REPLACE TEMP TABLE repeated AS
SELECT
    ordinal,
    row_number() OVER same_id AS nth,
    first_value(checksum) OVER same_id AS first_checksum
FROM given
SEMI JOIN (SELECT dataset_id FROM given GROUP BY dataset_id HAVING count(*) > 1) USING (dataset_id)
WINDOW same_id AS (PARTITION BY dataset_id ORDER BY ordinal);
