-- clipped: observations beyond $clip sigma or $limit mag from their star. Of one star only the worst, for it drags the mean;
--   one that was left out stays out while it is as far from the mean of the others. A visit of one or two stars has a zero point that
--   fits a wrong one, too: these are judged by the preliminary zero points of their detectors (less what all zero points are shifted by), which err as much
--   as those of such visits lie off in the median (where fewer than ten tell of it, $limit is $clip sigma).
-- inputs: residual, local_zero, visit, suspect(visit, gradient_x, gradient_y), preliminary_visit_summary, focal_plane
-- grain: one row per star and visit
CREATE OR REPLACE TEMP TABLE clipped AS
WITH few AS (
  SELECT visit FROM residual WHERE visit >= 0 GROUP BY visit HAVING count(*) < 3
),
common AS (
  SELECT v.band, median(z.zero) AS zero FROM local_zero z JOIN visit v USING (visit) GROUP BY v.band
),
shifted AS (
  SELECT z.visit, z.detector, band,
         z.zero - c.zero + v.prior - p.zeroPoint + coalesce(q.gradient_x * f.x0 + q.gradient_y * f.y0, 0) AS shift
  FROM local_zero z
  SEMI JOIN few USING (visit)
  JOIN visit v USING (visit)
  JOIN common c USING (band)
  JOIN (SELECT visit, detector, band, zeroPoint FROM preliminary_visit_summary) p USING (visit, detector, band)
  LEFT JOIN suspect q USING (visit)
  LEFT JOIN focal_plane f USING (detector)
  WHERE isfinite(p.zeroPoint)
),
usual AS (
  SELECT band, if(count(*) < 10, $limit / $clip, least(1.4826 * median(abs(shift)), $limit / $clip)) AS usual FROM shifted GROUP BY band
),
judged AS (
  SELECT r.star, r.visit, r.used, abs(r.r - coalesce(s.shift, 0)) AS off,
         off / sqrt(if(r.used, greatest(1 - r.h, 1e-6) / r.w, 1 / r.w + 1 / r.s) + coalesce(pow(u.usual, 2), 0)) AS sigma
  FROM residual r
  LEFT JOIN shifted s ON s.visit = r.visit AND s.detector = r.detector
  LEFT JOIN usual u ON u.band = s.band
),
far AS (
  SELECT star, visit, used, sigma FROM judged WHERE coalesce(sigma > $clip OR off > $limit, true)
)
SELECT star, visit FROM far
QUALIFY NOT used OR row_number() OVER (PARTITION BY star, used ORDER BY sigma DESC, visit) = 1
