-- fixed_point: sums that do not depend on the order of their terms. A term becomes an integer, 2^30 to the unit (1e-9), sums of
-- integers are exact, so any order of rows and any number of threads add up to the same bits.
CREATE OR REPLACE TEMP MACRO fixed(x) AS CAST(x * 1073741824.0 AS BIGINT);
CREATE OR REPLACE TEMP MACRO whole(x) AS CAST(x AS DOUBLE) / 1073741824.0;
CREATE OR REPLACE TEMP MACRO total(terms) AS whole(sum(fixed(terms)));
CREATE OR REPLACE TEMP MACRO huge(x) AS CAST(x * 1073741824.0 AS HUGEINT);
