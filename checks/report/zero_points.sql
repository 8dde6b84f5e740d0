-- zero_points: the range of final zero points in time: over the detectors of a visit or, of many visits, of as many in a row as make
--   $bins pieces.
-- inputs: photo_calib of the central site ({central}), visit
-- grain: one row per piece, band and kind; place: of its first visit in the order of time; low, high: mag
WITH zero AS (
    SELECT p.instrument, p.visit, p.band, p.day_obs, any_value(v.mjd_mid) AS mjd,
           if(p.extrapolated, 'extrapolated', if(p.photometric, 'photometric', 'cloudy')) AS kind,
           min(p.zeroPoint) AS low, max(p.zeroPoint) AS high
    FROM {central}.photo_calib p
    JOIN {central}.visit v ON v.visit = p.visit AND v.instrument = p.instrument
    WHERE p.zeroPoint IS NOT NULL
    GROUP BY p.instrument, p.visit, p.band, p.day_obs, kind
),
ordered AS (
    SELECT *, dense_rank() OVER (ORDER BY mjd, visit) - 1 AS number FROM zero
),
piece AS (
    SELECT *, number // ((SELECT max(number) // $bins + 1 FROM ordered)) AS piece FROM ordered
)
SELECT band, kind, min(number) AS place, min(day_obs) AS day_obs, min(low) AS low, max(high) AS high
FROM piece
GROUP BY band, kind, piece
ORDER BY band, kind, place
