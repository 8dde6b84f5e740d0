-- Makes: macro uuid5(name), the UUIDv5 (RFC 9562) of a text in the project's namespace, as text; equal to Python's uuid.uuid5.
-- Inputs: $namespace is replaced by the namespace's 16 bytes as a BLOB literal (macros take no parameters).
CREATE OR REPLACE TEMP MACRO uuid5_text(h) AS
    h[1:8] || '-' || h[9:12] || '-5' || h[14:16] || '-'
    || substr('89ab', (strpos('0123456789abcdef', h[17]) - 1) % 4 + 1, 1) || h[18:20] || '-' || h[21:32];
CREATE OR REPLACE TEMP MACRO uuid5(name) AS uuid5_text(sha1($namespace || encode(name)));
