-- plain: what of one type is as it should be, by step: expected or moved or placed here, registered, and nothing else known.
-- inputs: e, d, extra (registered, not expected), manifest_type (dataset_id, phase), odd (dataset_id), expected_type
--         and dataset_odd (rows of odd); $site, $dataset_type
-- grain: one row per step. A dataset has one producing quantum, so what is expected and neither missing nor odd is in d
--        once; its bytes are those of d less those of all others. What is expected of one type is all of one step.
WITH placed AS (
    SELECT coalesce(m.phase, if(starts_with(split_part(x.run, '/', 2), 'step'), split_part(x.run, '/', 2), 'place')) AS step, x.bytes
    FROM extra x LEFT JOIN manifest_type m USING (dataset_id) ANTI JOIN odd o ON o.dataset_id = x.dataset_id
),
predicted AS (
    SELECT step, sum(datasets) AS datasets
    FROM (SELECT step, count(*) AS datasets FROM e GROUP BY step
          UNION ALL
          SELECT step, -count(*) FROM expected_type GROUP BY step)
    GROUP BY step
),
remaining AS (
    SELECT (SELECT coalesce(sum(bytes), 0) FROM d)
         - (SELECT coalesce(sum(bytes), 0) FROM dataset_odd WHERE dataset_type = $dataset_type)
         - (SELECT coalesce(sum(bytes), 0) FROM placed) AS bytes
)
SELECT $site AS site, step, $dataset_type AS dataset_type, 'visible' AS state, sum(datasets)::BIGINT AS datasets,
       sum(bytes)::BIGINT AS bytes, NULL::VARCHAR AS reason
FROM (SELECT step, datasets, bytes FROM predicted, remaining WHERE datasets > 0
      UNION ALL
      SELECT step, count(*), sum(bytes) FROM placed GROUP BY step)
GROUP BY step
