-- tally: how a step stands
SELECT count(*) AS quanta, count(*) FILTER (WHERE done) AS done, count(*) FILTER (WHERE failed) AS failed
FROM state WHERE step = $step
