-- What an audit must know before it asks anything.
--   now_us        the server's clock, by which everything else is dated
--   horizon_us    events before this may have left by retention; 0 when none can have, because they
--                 are kept for ever or the schema is younger than the retention. Three days are
--                 added for months of different lengths.
--   settled_us    the first month that is wholly after the horizon
WITH
    (
        SELECT toUInt32OrZero(any(extract(engine_full, 'TTL ts \\+ toIntervalMonth\\((\\d+)\\)')))
        FROM system.tables
        WHERE database = currentDatabase() AND name = 'usage_events'
    ) AS ttl_months,
    (SELECT min(applied_at) FROM schema_migrations) AS installed,
    subtractMonths(now64(6, 'UTC'), ttl_months) + INTERVAL 3 DAY AS horizon,
    ttl_months > 0 AND installed <= horizon AS rows_may_be_gone
SELECT
    toUnixTimestamp64Micro(now64(6, 'UTC')) AS now_us,
    if(rows_may_be_gone, toUnixTimestamp64Micro(horizon), 0) AS horizon_us,
    if(
        rows_may_be_gone,
        toUnixTimestamp64Micro(toDateTime64(addMonths(toStartOfMonth(horizon), 1), 6, 'UTC')),
        0
    ) AS settled_us
