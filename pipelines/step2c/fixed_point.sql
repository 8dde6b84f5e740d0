-- fixed_point: sums that do not depend on the order of their terms, nor on the number of threads: every term is first made a multiple of
--   a unit, and sums of multiples are exact. total: of integers, 2^30 to the unit; exact: of weights (1/mag^2), whose unit is 2^-18: rounded
--   by adding and taking off a large number, they add up as doubles, exact to 3e10, which is quicker. huge: for numbers beyond 8e9.
CREATE OR REPLACE TEMP MACRO fixed(x) AS CAST(x * 1073741824.0 AS BIGINT);
CREATE OR REPLACE TEMP MACRO whole(x) AS CAST(x AS DOUBLE) / 1073741824.0;
CREATE OR REPLACE TEMP MACRO total(terms) AS whole(sum(fixed(terms)));
CREATE OR REPLACE TEMP MACRO exact(terms) AS sum((terms + 25769803776.0) - 25769803776.0);
CREATE OR REPLACE TEMP MACRO huge(x) AS CAST(x * 1073741824.0 AS HUGEINT);
