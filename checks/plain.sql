-- plain: what of some types is as it should be, by step: expected or moved or placed here, registered, and nothing else known.
-- inputs: expected_sum (dataset_type, step, datasets), present_sum (dataset_type, bytes), extra (registered, not expected),
--         manifest_type (dataset_id, phase), odd (dataset_id), expected_type and dataset_odd (rows of odd), copied
--         (dataset_id: in the archive too); $site, $kinds (the types)
-- grain: one row per dataset type and step. A dataset has one producing quantum, so what is expected and neither missing
--        nor odd is registered once; its bytes are those of all less those of all others. What is expected of one type
--        and is not odd is all of one step.
WITH placed AS (
    SELECT x.dataset_id, x.dataset_type, x.bytes,
           coalesce(m.phase, if(starts_with(split_part(x.run, '/', 2), 'step'), split_part(x.run, '/', 2), 'place')) AS step
    FROM extra x LEFT JOIN manifest_type m USING (dataset_id) ANTI JOIN odd o ON o.dataset_id = x.dataset_id
),
archived AS (
    SELECT c.dataset_id, c.dataset_type, p.step FROM (FROM copied ANTI JOIN odd USING (dataset_id)) c LEFT JOIN placed p USING (dataset_id)
),
predicted AS (
    SELECT dataset_type, step, sum(datasets) AS datasets
    FROM (SELECT dataset_type, step, datasets FROM expected_sum
          UNION ALL
          SELECT dataset_type, step, -1 FROM expected_type)
    WHERE list_contains($kinds, dataset_type)
    GROUP BY ALL
),
remaining AS (
    SELECT dataset_type, sum(bytes) AS bytes, sum(in_archive) AS in_archive
    FROM (SELECT dataset_type, bytes, 0 AS in_archive FROM present_sum
          UNION ALL
          SELECT dataset_type, -bytes, 0 FROM dataset_odd
          UNION ALL
          SELECT dataset_type, -bytes, 0 FROM placed
          UNION ALL
          SELECT dataset_type, 0, 1 FROM archived WHERE step IS NULL)
    GROUP BY dataset_type
)
SELECT $site AS site, step, dataset_type, 'visible' AS state, sum(datasets)::BIGINT AS datasets, sum(bytes)::BIGINT AS bytes,
       sum(in_archive)::BIGINT AS in_archive, NULL::VARCHAR AS reason
FROM (SELECT dataset_type, step, datasets, coalesce(bytes, 0) AS bytes, coalesce(in_archive, 0) AS in_archive
      FROM predicted LEFT JOIN remaining USING (dataset_type)
      WHERE datasets > 0
      UNION ALL
      SELECT dataset_type, step, 1, bytes, 0 FROM placed
      UNION ALL
      SELECT dataset_type, step, 0, 0, 1 FROM archived WHERE step IS NOT NULL)
GROUP BY ALL
