-- Makes: words that every statement of the project may use; each connection learns them when it is opened.
-- last_event(t): the rows of transfer (or of some of its files) that say where each file of a rule stands. The attempt, then the
-- state's place in this list order a file's events, whatever the clocks said, and however late an event was written.
CREATE OR REPLACE MACRO last_event(t) AS row_number() OVER (
    PARTITION BY t.rule_id, t.path
    ORDER BY t.attempt DESC,
             list_position(['queued', 'copying', 'arrived', 'verified', 'parked', 'failed', 'ingested', 'deleted'], t.state) DESC,
             t.noted_at DESC
) = 1;
-- data_id(record): the data ID in the JSON form of a dataset's row, for unnest().
CREATE OR REPLACE MACRO data_id(record) AS json_transform(record, '{
    "instrument": "VARCHAR", "exposure": "BIGINT", "visit": "BIGINT", "detector": "INTEGER", "physical_filter": "VARCHAR",
    "band": "VARCHAR", "day_obs": "INTEGER", "skymap": "VARCHAR", "tract": "INTEGER", "patch": "INTEGER"
}');
