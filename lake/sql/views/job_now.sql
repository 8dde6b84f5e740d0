-- job_now: the latest state of every job.
-- Inputs: job (append-only events, central site). Grain: one row per (campaign, site, job).
SELECT *
FROM job
QUALIFY row_number() OVER (
    PARTITION BY campaign, site, job
    ORDER BY attempt DESC, noted_at DESC, list_position(['running', 'failed', 'succeeded'], state) DESC
) = 1
