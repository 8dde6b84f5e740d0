-- sky_reference: standard stars less the reference catalogue, by place on the sky, about the median of each band.
-- inputs: standard_star of the central site ({central}), reference_star, skymap; $cell (deg)
-- grain: one row per band and cell of the sky with 3 stars or more. value: weighted mean, mmag; ra, dec: middle of the cell
WITH radius AS (SELECT 1.5 * max(pixel_scale) / 3600 AS r FROM {central}.skymap),
standard AS (
    SELECT s.tract, s.isolatedStarId AS star, s.band, s.coord_ra AS ra, s.coord_dec AS dec, s.mag, s.magErr AS err,
           floor(s.coord_dec / r) AS zone
    FROM {central}.standard_star s, radius
    WHERE s.magErr < 0.02
),
wide AS (SELECT DISTINCT ON (tract, reference_id) * FROM {central}.reference_star),
reference AS (
    SELECT m.tract, m.coord_ra AS ra, m.coord_dec AS dec, left(m.name, 1) AS band, m.mag, e.err,
           unnest([floor(m.coord_dec / r) - 1, floor(m.coord_dec / r), floor(m.coord_dec / r) + 1]) AS zone
    FROM (SELECT * FROM (UNPIVOT wide ON COLUMNS('^[a-z]_mag$') INTO NAME name VALUE mag)) m
    JOIN (
        SELECT tract, reference_id, name, err
        FROM (UNPIVOT wide ON COLUMNS('^[a-z]_magErr$') INTO NAME name VALUE err)
    ) e ON e.tract = m.tract AND e.reference_id = m.reference_id AND left(e.name, 1) = left(m.name, 1), radius
),
pair AS (
    SELECT s.*, s.mag - f.mag AS off, s.err ** 2 + f.err ** 2 AS variance
    FROM standard s
    JOIN radius ON true
    JOIN reference f ON f.tract = s.tract AND f.zone = s.zone AND f.band = s.band
        AND abs(f.dec - s.dec) < r AND abs((f.ra - s.ra + 540) % 360 - 180) * cos(radians(s.dec)) < r
    QUALIFY row_number() OVER (PARTITION BY s.star, s.band ORDER BY (f.dec - s.dec) ** 2 + (f.ra - s.ra) ** 2) = 1
),
middle AS (SELECT band, median(off) AS off FROM pair GROUP BY band),
place AS (
    SELECT p.band, p.off - m.off AS off, p.variance, floor(p.dec / $cell) AS row,
           floor(p.ra * cos(radians((floor(p.dec / $cell) + 0.5) * $cell)) / $cell) AS col
    FROM pair p JOIN middle m USING (band)
    WHERE abs(p.off - m.off) < 0.3
)
SELECT band, (col + 0.5) * $cell / cos(radians((row + 0.5) * $cell)) AS ra, (row + 0.5) * $cell AS dec,
       1000 * sum(off / variance) / sum(1 / variance) AS value, count(*) AS n
FROM place
GROUP BY band, row, col HAVING count(*) >= 3
ORDER BY band, row, col
