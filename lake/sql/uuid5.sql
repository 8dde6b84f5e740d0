-- Makes: macro uuid5(name), the UUIDv5 (RFC 9562) of a text in the project's namespace, as text; equal to Python's uuid.uuid5.
-- Inputs: $namespace is replaced by the namespace's 16 bytes as a BLOB literal (macros take no parameters).
CREATE OR REPLACE TEMP MACRO uuid5_text(h) AS if(h IS NULL, NULL, concat(
    left(h, 8), '-', substr(h, 9, 4), '-5', substr(h, 14, 3), '-',
    CASE
        WHEN substr(h, 17, 1) IN ('0', '4', '8', 'c') THEN '8'
        WHEN substr(h, 17, 1) IN ('1', '5', '9', 'd') THEN '9'
        WHEN substr(h, 17, 1) IN ('2', '6', 'a', 'e') THEN 'a'
        ELSE 'b'
    END,
    substr(h, 18, 3), '-', substr(h, 21, 12))
);
CREATE OR REPLACE TEMP MACRO uuid5(name) AS uuid5_text(sha1($namespace || encode(name)));
