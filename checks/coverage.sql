-- coverage: every registered file, and when a deep audit last read it.
-- inputs: registered (path, file_bytes, file_checksum, datasets, registered_at), audit_coverage (events)
-- grain: one row per file; n its place in order of (registered_at, path): files that are registered later come later, so
--        that a range that was read stays a range. read_at is NULL for a file that was never read.
-- An event counts only while its range holds exactly the files that were read: the digest says so.
WITH hashed AS (
    SELECT *, (md5_number(path || ' ' || file_checksum) % 4611686018427387904)::BIGINT AS hash FROM registered
),
file AS (
    SELECT *, row_number() OVER place AS n, sum(hash::HUGEINT) OVER place AS running
    FROM hashed WINDOW place AS (ORDER BY registered_at, path)
),
range AS (
    SELECT f.n AS first_n, l.n AS last_n, e.noted_at
    FROM audit_coverage e
    JOIN file f ON f.registered_at = e.first_at AND f.path = e.first_path
    JOIN file l ON l.registered_at = e.last_at AND l.path = e.last_path
    WHERE (l.running - f.running + f.hash) % 4611686018427387904 = e.digest
),
edge AS (
    SELECT first_n AS n FROM range UNION SELECT last_n + 1 FROM range
),
segment AS (  -- between two edges, the same events cover every file
    SELECT g.n, max(r.noted_at) AS read_at
    FROM edge g LEFT JOIN range r ON r.first_n <= g.n AND g.n <= r.last_n
    GROUP BY g.n
)
SELECT f.n, f.path, f.file_bytes, f.file_checksum, f.datasets, f.registered_at, f.hash, s.read_at
FROM file f ASOF LEFT JOIN segment s ON f.n >= s.n
ORDER BY f.n
