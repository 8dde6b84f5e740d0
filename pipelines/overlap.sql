-- overlap: which polygons of side 'region' and of side 'target' have an area of the sky in common.
-- Inputs: polygon (see overlap_polygon.sql). Grain: one row (region, target) per overlapping pair, sorted.
--
-- Exact test: two convex polygons within a hemisphere are apart if and only if the great circle of an edge of one of them
-- has the whole other polygon on its outer side (the separating axis theorem; a gnomonic projection about any point of the
-- hemisphere turns great circles into lines). Unit vectors know neither a seam at RA 0 nor poles. 1e-15 is the rounding of
-- the products: an overlap narrower than 1e-7 arcsec (for edges of 10 arcmin) counts as mere touching.
--
-- So that no more than neighbours are tested, a region is put into the one bin of the sky that holds its centre, and a
-- target into every bin that a circle around its centre touches in which centres of overlapping regions must lie.
-- Bins: bands of declination of the given height, each cut into bins about as wide.
WITH size AS (
    SELECT max(radius) FILTER (side = 'region') AS region_radius, max(radius) AS radius,
        greatest(region_radius + max(radius) FILTER (side = 'target'), 1e-5) AS height
    FROM polygon
),
region AS (
    SELECT p.row, cx, cy, cz, p.radius, p.ra, height,
        floor((p.dec + pi() / 2) / height) AS band,
        greatest(1, floor(2 * pi() * cos((band + 0.5) * height - pi() / 2) / height)) AS bins,
        floor(p.ra / (2 * pi()) * bins) % bins AS bin
    FROM polygon AS p, size
    WHERE side = 'region'
),
target_circle AS (
    -- The tiny margin covers rounding; a candidate too many costs nothing, one too few would lose a pair.
    SELECT p.row, cx, cy, cz, p.radius, p.ra, p.dec, height, p.radius + region_radius + 1e-9 AS around
    FROM polygon AS p, size
    WHERE side = 'target'
),
target_band AS (
    SELECT *,
        unnest(generate_series(
            floor((dec - around + pi() / 2) / height)::BIGINT, floor((dec + around + pi() / 2) / height)::BIGINT)) AS band,
        greatest(1, floor(2 * pi() * cos((band + 0.5) * height - pi() / 2) / height)) AS bins,
        CASE WHEN abs(dec) + around >= pi() / 2 THEN pi() ELSE asin(sin(around) / cos(dec)) + 1e-9 END AS half
    FROM target_circle
),
target AS (
    SELECT row, cx, cy, cz, radius, band, bins,
        unnest(generate_series(
            floor((ra - half) / (2 * pi()) * bins)::BIGINT,
            least(floor((ra + half) / (2 * pi()) * bins),
                  floor((ra - half) / (2 * pi()) * bins) + bins - 1)::BIGINT)) AS unwrapped,
        (unwrapped % bins + bins) % bins AS bin
    FROM target_band
),
near AS MATERIALIZED (
    SELECT r.row AS region, t.row AS target
    FROM region AS r
    JOIN target AS t ON t.band = r.band AND t.bin = r.bin
    -- A chord is shorter than its arc: this never refuses circles that meet.
    WHERE (r.cx - t.cx) ** 2 + (r.cy - t.cy) ** 2 + (r.cz - t.cz) ** 2 <= (r.radius + t.radius) ** 2
)
SELECT near.region, near.target
FROM near
JOIN polygon AS r ON r.side = 'region' AND r.row = near.region
JOIN polygon AS t ON t.side = 'target' AND t.row = near.target
WHERE reach(r.a0, r.b0, r.c0, t.x0, t.y0, t.z0, t.x1, t.y1, t.z1, t.x2, t.y2, t.z2, t.x3, t.y3, t.z3) > 1e-15
    AND reach(r.a1, r.b1, r.c1, t.x0, t.y0, t.z0, t.x1, t.y1, t.z1, t.x2, t.y2, t.z2, t.x3, t.y3, t.z3) > 1e-15
    AND reach(r.a2, r.b2, r.c2, t.x0, t.y0, t.z0, t.x1, t.y1, t.z1, t.x2, t.y2, t.z2, t.x3, t.y3, t.z3) > 1e-15
    AND reach(r.a3, r.b3, r.c3, t.x0, t.y0, t.z0, t.x1, t.y1, t.z1, t.x2, t.y2, t.z2, t.x3, t.y3, t.z3) > 1e-15
    AND reach(t.a0, t.b0, t.c0, r.x0, r.y0, r.z0, r.x1, r.y1, r.z1, r.x2, r.y2, r.z2, r.x3, r.y3, r.z3) > 1e-15
    AND reach(t.a1, t.b1, t.c1, r.x0, r.y0, r.z0, r.x1, r.y1, r.z1, r.x2, r.y2, r.z2, r.x3, r.y3, r.z3) > 1e-15
    AND reach(t.a2, t.b2, t.c2, r.x0, r.y0, r.z0, r.x1, r.y1, r.z1, r.x2, r.y2, r.z2, r.x3, r.y3, r.z3) > 1e-15
    AND reach(t.a3, t.b3, t.c3, r.x0, r.y0, r.z0, r.x1, r.y1, r.z1, r.x2, r.y2, r.z2, r.x3, r.y3, r.z3) > 1e-15
ORDER BY near.region, near.target;
