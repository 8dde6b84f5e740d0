-- campaign_now: the latest state of every campaign.
-- Inputs: campaign (append-only events, central site). Grain: one row per (site, campaign).
SELECT *
FROM campaign
QUALIFY row_number() OVER (PARTITION BY site, campaign ORDER BY noted_at DESC) = 1
