-- prior_knowledge: what is known of the unknowns beforehand: sum of value * unknown = target, with an error.
--   The preliminary zero points are the gauge of what no reference star reaches: their errors are kept large, and larger for
--   visits under clouds, as a preliminary zero point may be no more than the nominal one.
--   zero_point + prior - exposure = night - extinction * (X - 1) for photometric visits.
-- inputs: unknown, visit, cloudy, night_spread(band, spread): how far photometric visits scatter about their night;
--   $gauge, $unmeasured, $extinction, $flat, $flat_mean, $colour, $reference_colour: errors (mag)
-- grain: one row per fact and unknown
WITH own AS (
  SELECT number, CAST(1 AS DOUBLE) AS value,
         if(kind = 'extinction', (SELECT min(extinction) FROM visit v WHERE v.band = u.band), 0) AS target,
         CASE kind
           WHEN 'zero_point' THEN if((SELECT known FROM visit v WHERE v.visit = u.visit) AND u.visit NOT IN (SELECT visit FROM cloudy), $gauge, $unmeasured)
           WHEN 'flat' THEN $flat
           WHEN 'offset' THEN (SELECT spread FROM cloudy c WHERE c.visit = u.visit)
           WHEN 'colour' THEN $colour
           WHEN 'reference_colour' THEN $reference_colour
           WHEN 'extinction' THEN $extinction
         END AS error,
         'unknown ' || number AS fact
  FROM unknown u
  WHERE kind <> 'night'
),
clear AS (
  SELECT visit, band, day_obs, airmass, exposure - prior AS target, spread, 'visit ' || visit AS fact
  FROM visit ANTI JOIN cloudy USING (visit) JOIN night_spread USING (band)
  WHERE airmass IS NOT NULL
),
nights AS (
  SELECT u.number, 1, c.target, c.spread, c.fact
  FROM clear c JOIN unknown u USING (band, visit)
  WHERE u.kind = 'zero_point'
  UNION ALL
  SELECT u.number, if(u.kind = 'night', -1, c.airmass - 1), c.target, c.spread, c.fact
  FROM clear c JOIN unknown u USING (band, day_obs)
  WHERE u.kind IN ('night', 'extinction')
),
means AS (
  SELECT number, 1 / count(*) OVER (PARTITION BY band, epoch), 0, $flat_mean, 'flats ' || band || ' ' || epoch
  FROM unknown
  WHERE kind = 'flat'
)
SELECT CAST(dense_rank() OVER (ORDER BY fact) - 1 AS INTEGER) AS fact, number, value, target, error
FROM (SELECT * FROM (SELECT number, value, target, error, fact FROM own) UNION ALL SELECT * FROM nights UNION ALL SELECT * FROM means)
ORDER BY fact, number
