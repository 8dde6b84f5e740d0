-- polygon: convex quadrilaterals on the sphere as unit vectors, ready for the overlap test.
-- Inputs: corners (side, row, ra0, dec0 ... ra3, dec3, degrees, in order around the polygon, either way round).
-- Grain: one row per (side, row): corners (x0, y0, z0) ... (x3, y3, z3), the inward normals (a0, b0, c0) ... (a3, b3, c3) of
-- the edges (0 from corner 0 to 1), the bounding circle (cx, cy, cz, radius in radians) with its ra and dec (radians), and
-- whether it is a proper convex polygon smaller than a hemisphere. Plain columns: five times as fast as arrays here.
CREATE OR REPLACE TEMP MACRO dot(x, y, z, u, v, w) AS (x * u + y * v + z * w);
CREATE OR REPLACE TEMP MACRO chord(x, y, z, u, v, w) AS sqrt((x - u) ** 2 + (y - v) ** 2 + (z - w) ** 2);
-- How far a polygon reaches to the inner side of an edge with normal (a, b, c), times the length of the edge.
CREATE OR REPLACE TEMP MACRO reach(a, b, c, x0, y0, z0, x1, y1, z1, x2, y2, z2, x3, y3, z3) AS greatest(
    dot(a, b, c, x0, y0, z0), dot(a, b, c, x1, y1, z1), dot(a, b, c, x2, y2, z2), dot(a, b, c, x3, y3, z3));

CREATE OR REPLACE TEMP TABLE polygon AS
WITH vertex AS (
    SELECT side, row,
        cos(radians(dec0)) * cos(radians(ra0)) AS x0, cos(radians(dec0)) * sin(radians(ra0)) AS y0, sin(radians(dec0)) AS z0,
        cos(radians(dec1)) * cos(radians(ra1)) AS x1, cos(radians(dec1)) * sin(radians(ra1)) AS y1, sin(radians(dec1)) AS z1,
        cos(radians(dec2)) * cos(radians(ra2)) AS x2, cos(radians(dec2)) * sin(radians(ra2)) AS y2, sin(radians(dec2)) AS z2,
        cos(radians(dec3)) * cos(radians(ra3)) AS x3, cos(radians(dec3)) * sin(radians(ra3)) AS y3, sin(radians(dec3)) AS z3
    FROM corners
),
edge AS (
    SELECT *,
        y0 * z1 - z0 * y1 AS ea0, z0 * x1 - x0 * z1 AS eb0, x0 * y1 - y0 * x1 AS ec0,
        y1 * z2 - z1 * y2 AS ea1, z1 * x2 - x1 * z2 AS eb1, x1 * y2 - y1 * x2 AS ec1,
        y2 * z3 - z2 * y3 AS ea2, z2 * x3 - x2 * z3 AS eb2, x2 * y3 - y2 * x3 AS ec2,
        y3 * z0 - z3 * y0 AS ea3, z3 * x0 - x3 * z0 AS eb3, x3 * y0 - y3 * x0 AS ec3,
        x0 + x1 + x2 + x3 AS sx, y0 + y1 + y2 + y3 AS sy, z0 + z1 + z2 + z3 AS sz,
        sqrt(sx * sx + sy * sy + sz * sz) AS length, sx / length AS cx, sy / length AS cy, sz / length AS cz,
        -- +1 for corners counter-clockwise seen from outside the sphere, -1 for clockwise: turns every normal inwards.
        sign(dot(ea0, eb0, ec0, cx, cy, cz)) AS turn
    FROM vertex
)
SELECT
    side, row,
    x0, y0, z0, x1, y1, z1, x2, y2, z2, x3, y3, z3,
    turn * ea0 AS a0, turn * eb0 AS b0, turn * ec0 AS c0,
    turn * ea1 AS a1, turn * eb1 AS b1, turn * ec1 AS c1,
    turn * ea2 AS a2, turn * eb2 AS b2, turn * ec2 AS c2,
    turn * ea3 AS a3, turn * eb3 AS b3, turn * ec3 AS c3,
    cx, cy, cz,
    -- From the chord: acos of a cosine near 1 would lose half of the digits of a small radius.
    2 * asin(least(1, 0.5 * greatest(
        chord(cx, cy, cz, x0, y0, z0), chord(cx, cy, cz, x1, y1, z1),
        chord(cx, cy, cz, x2, y2, z2), chord(cx, cy, cz, x3, y3, z3)))) AS radius,
    atan2(sz, sqrt(sx * sx + sy * sy)) AS dec,
    (atan2(sy, sx) + 2 * pi()) % (2 * pi()) AS ra,
    coalesce(isfinite(length) AND radius < pi() / 2 AND least(
        dot(a0, b0, c0, x2, y2, z2), dot(a0, b0, c0, x3, y3, z3),
        dot(a1, b1, c1, x3, y3, z3), dot(a1, b1, c1, x0, y0, z0),
        dot(a2, b2, c2, x0, y0, z0), dot(a2, b2, c2, x1, y1, z1),
        dot(a3, b3, c3, x1, y1, z1), dot(a3, b3, c3, x2, y2, z2)) > 1e-15, false) AS convex
FROM edge;
