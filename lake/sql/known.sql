-- Makes: known, what is registered under ids of the batch.
-- Inputs: given (ordinal, the columns of dataset), candidates (dataset_id, checksum, path of rows of dataset). Grain: one row per id.
CREATE OR REPLACE TEMP TABLE known AS
SELECT dataset_id, min(checksum) AS known_checksum, min(path) AS known_path
FROM candidates SEMI JOIN given USING (dataset_id)
GROUP BY dataset_id;
