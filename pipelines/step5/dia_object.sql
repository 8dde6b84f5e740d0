-- dia_object: one row per cluster of difference sources, numbered in order of (dec, ra).
-- Inputs: member (cluster, seed, diaSourceId, midpointMjdTai, snr, x, y, z: unit vector of the position).
-- Grain: cluster. Parameters: $tract.
-- The position is the mean of the unflagged sources (seed) weighted by (S/N)^2, that is, by the inverse variance of a centroid;
-- sums run in order of diaSourceId, so that the last digit does not depend on how the rows arrived.
WITH centre AS (
    SELECT
        cluster,
        sum(snr * snr * x ORDER BY diaSourceId) FILTER (WHERE seed) AS x,
        sum(snr * snr * y ORDER BY diaSourceId) FILTER (WHERE seed) AS y,
        sum(snr * snr * z ORDER BY diaSourceId) FILTER (WHERE seed) AS z,
        count(*)::INTEGER AS nDiaSources,
        min(midpointMjdTai) AS firstDiaSourceMjdTai,
        max(midpointMjdTai) AS lastDiaSourceMjdTai
    FROM member
    GROUP BY cluster
),
sky AS (
    SELECT
        *,
        CASE WHEN y < 0 THEN degrees(atan2(y, x)) + 360 ELSE degrees(atan2(y, x)) END AS coord_ra,
        degrees(atan2(z, sqrt(x * x + y * y))) AS coord_dec
    FROM centre
)
SELECT
    cluster,
    $tract::BIGINT * 4294967296 + row_number() OVER (ORDER BY coord_dec, coord_ra) AS diaObjectId,
    coord_ra,
    coord_dec,
    nDiaSources,
    firstDiaSourceMjdTai,
    lastDiaSourceMjdTai
FROM sky
ORDER BY diaObjectId
