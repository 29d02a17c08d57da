-- One row per answered request, per second of refusals of one kind, or per ingested event.
--
-- The tenant is first in the sorting key: one tenant's rows lie together. A batch is one block of one
-- month, hence one part, hence there entirely or not at all, and the projection with it: what bills
-- are made of cannot disagree with the rows, whatever dies.
--
-- Codecs were chosen by size and by the CPU of writing and reading, on 5 million rows of a plausible
-- gateway (examples/clickhouse_insert.rs), merged: 41.0 bytes a row with LZ4 everywhere, 28.6 as
-- below, of which 16.0 are the random request id and 0.04 the projection. Bytes a row:
--
--   column              LZ4   ZSTD(1)  T64,LZ4  T64,ZSTD(1)  Delta,ZSTD(1)  DoubleDelta,ZSTD(1)
--   sequence           4.59     2.39        -         2.18           2.32                 2.35
--   ts                 5.85     3.32     3.39         3.28           3.41                 3.93
--   lane               1.29     0.41     0.26         0.26              -                    -
--   request_bytes      0.85     0.41     0.33         0.32              -                    -
--   response_bytes     3.30     1.69     1.51         1.46              -                    -
--   duration_us        3.86     2.51     2.17         2.10              -                    -
--   upstream_us        3.86     2.51     2.17         2.10              -                    -
--   request_id        16.07    16.01        -            -              -                    -
--   key_id             0.68     0.29        -            -              -                    -
--
-- T64 reads several times faster than Delta and DoubleDelta, which is why `ts` has it although
-- Delta, T64, ZSTD(1) is half a byte smaller. ZSTD(1) on the request id costs nothing measurable and
-- pays as soon as the ids begin with the time. The other columns are below 0.3 bytes in any codec.
--
-- fsync_after_insert: the journal forgets a batch once it is acknowledged, so an acknowledged batch
-- must survive a loss of power here.
CREATE TABLE IF NOT EXISTS {{database}}.usage_events
(
    node UInt32,
    epoch UInt32,
    lane UInt16 CODEC(T64, LZ4),
    sequence UInt64 CODEC(T64, ZSTD(1)),
    ts DateTime64(6, 'UTC') CODEC(T64, ZSTD(1)),
    tenant LowCardinality(String),
    path LowCardinality(String),
    plan LowCardinality(String),
    key_id LowCardinality(String) CODEC(ZSTD(1)),
    app LowCardinality(String),
    route LowCardinality(String),
    meter LowCardinality(String),
    kind Enum8('request' = 1, 'refused' = 2, 'ingested' = 3),
    reason LowCardinality(String),
    method Enum8('OTHER' = 0, 'GET' = 1, 'HEAD' = 2, 'POST' = 3, 'PUT' = 4, 'DELETE' = 5, 'CONNECT' = 6, 'OPTIONS' = 7, 'TRACE' = 8, 'PATCH' = 9),
    status UInt16 CODEC(ZSTD(1)),
    flags UInt8,
    requests UInt32 CODEC(T64, LZ4),
    quantity Decimal(38, 9) CODEC(ZSTD(1)),
    request_bytes UInt64 CODEC(T64, LZ4),
    response_bytes UInt64 CODEC(T64, LZ4),
    duration_us UInt32 CODEC(T64, LZ4),
    upstream_us UInt32 CODEC(T64, LZ4),
    request_id UUID CODEC(ZSTD(1)),
    batch_id UInt64 CODEC(ZSTD(1)),
    -- For dashboards' last minutes, and for reading back a batch whose insert was ambiguous.
    INDEX ts_range ts TYPE minmax GRANULARITY 1,
    INDEX batch_range batch_id TYPE minmax GRANULARITY 1,
    PROJECTION usage_by_hour
    (
        SELECT
            tenant,
            toStartOfHour(ts),
            app,
            route,
            meter,
            kind,
            reason,
            plan,
            path,
            count(),
            sum(requests),
            sum(quantity),
            sum(request_bytes),
            sum(response_bytes)
        GROUP BY tenant, toStartOfHour(ts), app, route, meter, kind, reason, plan, path
    )
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (tenant, app, route, meter, ts)
SETTINGS
    non_replicated_deduplication_window = 10000,
    lightweight_mutation_projection_mode = 'rebuild',
    ttl_only_drop_parts = 1,
    materialize_ttl_recalculate_only = 1,
    fsync_after_insert = 1,
    fsync_part_directory = 1;
