-- fixed_point: sums that do not depend on the order of their terms. A term becomes an integer, 2^30 to the unit (1e-9), sums of
-- integers are exact, so any split over threads, files, tiles or sites adds up to the same bits.
CREATE OR REPLACE TEMP MACRO fixed(x) AS CAST(round(x * 1073741824.0) AS BIGINT);
CREATE OR REPLACE TEMP MACRO total(terms) AS CAST(sum(fixed(terms)) AS DOUBLE) / 1073741824.0;
