-- reference_magnitude: AB magnitudes of the reference stars that are isolated stars, one row per band they are known in.
-- inputs: reference_match(isolatedStarId, reference_id), reference_star
-- grain: one row per isolatedStarId, band
CREATE OR REPLACE TEMP TABLE reference_magnitude AS
WITH long AS (
  SELECT reference_id, unnest(['g', 'r', 'i', 'z']) AS band,
         unnest([g_mag, r_mag, i_mag, z_mag]) AS mag, unnest([g_magErr, r_magErr, i_magErr, z_magErr]) AS magErr
  FROM (SELECT DISTINCT ON (reference_id) * FROM reference_star ORDER BY reference_id)
)
SELECT m.isolatedStarId, l.band, l.mag, coalesce(l.magErr, 0) AS magErr
FROM long l
JOIN reference_match m USING (reference_id)
WHERE isfinite(l.mag) AND coalesce(isfinite(l.magErr), true)
ORDER BY m.isolatedStarId, l.band
