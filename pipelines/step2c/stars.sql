-- star: isolated stars in each band they were observed in; the unknown of the fit that is eliminated.
-- inputs: association, isolated_star
-- grain: one row per isolatedStarId, band, numbered from 0 in that order
CREATE OR REPLACE TEMP TABLE star AS
SELECT
  CAST(row_number() OVER (ORDER BY o.isolatedStarId, o.band) - 1 AS INTEGER) AS star,
  o.isolatedStarId, o.band, s.tract, s.skymap, s.coord_ra, s.coord_dec, s.reserved
FROM (SELECT DISTINCT isolatedStarId, band FROM association) o
JOIN (SELECT DISTINCT ON (isolatedStarId) * FROM isolated_star ORDER BY isolatedStarId, coord_dec, coord_ra) s
  USING (isolatedStarId)
ORDER BY star
