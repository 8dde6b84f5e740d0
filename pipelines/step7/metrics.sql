-- The campaign in numbers.
-- makes: metric, band (NULL: all), tract (NULL: all), value, unit; numbers that nothing is known about are absent
-- inputs: visit_table, visit_detector_table, standard_star, object, dia_object; map_summary(band, metric, value, unit);
--         $bright_error: formal error of one observation (mag) up to which a star serves to measure repeatability
-- grain: metric, band, tract
WITH
visits AS (
  SELECT band,
    {
      n_visit: count(*),
      n_visit_photometric: count(*) FILTER (WHERE photometric),
      median_seeing: median(psfFwhm),
      median_visit_depth: median(magLim),
      zero_point_scatter: 1000 * median(zeroPointScatter)
    } AS numbers
  FROM visit_table GROUP BY GROUPING SETS ((band), ())
),
detectors AS (
  SELECT band,
    { n_visit_detector: count(*), zero_point_error: 1000 * median(zeroPointErr) FILTER (WHERE photometric) } AS numbers
  FROM visit_detector_table GROUP BY GROUPING SETS ((band), ())
),
-- magErr is the formal error of a star's mean, chi2 its scatter against the errors per degree of freedom: together they
-- give the standard deviation of one observation.
stars AS (
  SELECT band, reserved, magErr * sqrt(nobs) AS error, magErr * sqrt(nobs * chi2) AS deviation
  FROM standard_star
),
repeatability AS (
  SELECT band,
    {
      n_standard_star: count(*),
      n_reserved_star: count(*) FILTER (WHERE reserved),
      repeatability_reserved: 1000 * median(deviation) FILTER (WHERE reserved AND error <= $bright_error),
      repeatability: 1000 * median(deviation) FILTER (WHERE error <= $bright_error)
    } AS numbers
  FROM stars GROUP BY band
),
objects AS (
  SELECT tract,
    {
      n_object: count(*),
      n_object_deblended: count(*) FILTER (WHERE parentObjectId IS NOT NULL),
      extended_fraction: avg(refExtendedness)
    } AS numbers
  FROM object WHERE detect_isPrimary GROUP BY GROUPING SETS ((tract), ())
),
dia_objects AS (
  SELECT tract, { n_dia_object: count(*), n_dia_object_repeated: count(*) FILTER (WHERE nDiaSources > 1) } AS numbers
  FROM dia_object GROUP BY GROUPING SETS ((tract), ())
),
-- One row per number: the fields of each struct by name.
listed AS (
  SELECT band, NULL::INTEGER AS tract, unnest(json_keys(to_json(numbers))) AS metric, to_json(numbers) AS numbers FROM visits
  UNION ALL
  SELECT band, NULL, unnest(json_keys(to_json(numbers))), to_json(numbers) FROM detectors
  UNION ALL
  SELECT band, NULL, unnest(json_keys(to_json(numbers))), to_json(numbers) FROM repeatability
  UNION ALL
  SELECT NULL, tract, unnest(json_keys(to_json(numbers))), to_json(numbers) FROM objects
  UNION ALL
  SELECT NULL, tract, unnest(json_keys(to_json(numbers))), to_json(numbers) FROM dia_objects
),
unit(metric, unit) AS (
  VALUES ('median_seeing', 'arcsec'), ('median_visit_depth', 'mag'), ('zero_point_scatter', 'mmag'),
         ('zero_point_error', 'mmag'), ('repeatability', 'mmag'), ('repeatability_reserved', 'mmag')
),
numbers AS (
  SELECT metric, band, tract, json_extract_string(numbers, '$.' || metric)::DOUBLE AS value, unit
  FROM listed LEFT JOIN unit USING (metric)
  UNION ALL
  SELECT metric, band, NULL, value, unit FROM map_summary
)
SELECT metric, band, tract, value, unit
FROM numbers
WHERE value IS NOT NULL AND isfinite(value)
ORDER BY metric, band NULLS FIRST, tract NULLS FIRST
