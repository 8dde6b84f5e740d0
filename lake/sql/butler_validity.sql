-- Makes: the validity ranges of a CALIBRATION collection as YAML, one per line, with the datasets that are valid in it.
-- Inputs: certification_now, named (dataset_id, butler_id), macro mjd_ns; parameter $name: the collection.
-- Grain: one row per range. A range without beginning or end (minus or plus infinity) has null there.
WITH ranges AS (
    SELECT
        valid_begin,
        valid_end,
        if(isfinite(valid_begin), make_timestamp_ns(mjd_ns(if(isfinite(valid_begin), valid_begin, 0))), NULL) AS first,
        if(isfinite(valid_end), make_timestamp_ns(mjd_ns(if(isfinite(valid_end), valid_end, 0))), NULL) AS last,
        '!uuid ''' || butler_id || '''' AS id
    FROM certification_now c
    JOIN named USING (dataset_id)
    WHERE c.collection = $name
)
SELECT
    '  - {"timespan": !lsst.daf.butler.Timespan {"begin": '
    || ifnull('!butler_time/tai/iso ''' || strftime(first, '%Y-%m-%d %H:%M:%S.%n') || '''', 'null')
    || ', "end": '
    || ifnull('!butler_time/tai/iso ''' || strftime(last, '%Y-%m-%d %H:%M:%S.%n') || '''', 'null')
    || '}, "dataset_ids": [' || string_agg(id, ', ' ORDER BY id) || ']}' AS line
FROM ranges
GROUP BY valid_begin, valid_end, first, last
ORDER BY valid_begin, valid_end
