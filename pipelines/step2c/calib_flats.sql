-- calib_flats: offset of each detector in an epoch; their mean over the detectors of an epoch is zero. t10 .. t02: coefficients of
--   Chebyshev polynomials over the detector, whose coordinates go from -1 to 1; null where none were fitted.
-- inputs: solved_unknown, term_stars(band, kind, epoch, detector, stars), seen_visit
-- grain: one row per instrument, band, epoch, detector
WITH wide AS (
  SELECT band, epoch, detector,
         max(value) FILTER (kind = 'flat') AS value, max(error) FILTER (kind = 'flat') AS error,
         max(value) FILTER (kind = 'flat_10') AS t10, max(value) FILTER (kind = 'flat_01') AS t01,
         max(value) FILTER (kind = 'flat_20') AS t20, max(value) FILTER (kind = 'flat_11') AS t11,
         max(value) FILTER (kind = 'flat_02') AS t02
  FROM solved_unknown
  WHERE starts_with(kind, 'flat')
  GROUP BY band, epoch, detector
),
mean AS (
  SELECT band, epoch, total(value) / count(*) AS mean FROM wide GROUP BY band, epoch
)
SELECT (SELECT min(instrument) FROM seen_visit) AS instrument, w.band, w.epoch, CAST(w.detector AS INTEGER) AS detector,
       w.value - m.mean AS "offset", w.error AS offsetErr, CAST(s.stars AS BIGINT) AS nStar, t10, t01, t20, t11, t02
FROM wide w
JOIN mean m USING (band, epoch)
JOIN term_stars s ON s.kind = 'flat' AND s.band = w.band AND s.epoch = w.epoch AND s.detector = w.detector
ORDER BY w.band, w.epoch, w.detector
