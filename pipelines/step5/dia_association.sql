-- dia_association: which object each difference source belongs to.
-- Inputs: member (cluster, diaSourceId, ...), found (cluster, diaObjectId, ...: the result of dia_object.sql).
-- Grain: diaSourceId. Sources that belong to no object have no row.
SELECT member.diaSourceId, found.diaObjectId
FROM member
JOIN found USING (cluster)
ORDER BY member.diaSourceId
