-- Makes: those of the given paths that something at a site needs: a registered dataset, or one that waits to be.
-- Inputs: dataset, parked_now. Grain: one row per path; parameters: paths.
SELECT path FROM dataset WHERE path IN (SELECT unnest($paths::VARCHAR[]))
UNION
SELECT record ->> 'path' FROM parked_now
WHERE state = 'parked' AND record ->> 'path' IN (SELECT unnest($paths::VARCHAR[]))
