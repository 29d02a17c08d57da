-- The months an audit has to look at: those with rows in scope and those with batches in scope.
--   from_us, to_us     event times, half-open, unix microseconds
--   written_from_us    batches written since then are in scope whatever their event times
SELECT DISTINCT month
FROM
(
    SELECT toUInt32(_partition_id) AS month
    FROM usage_events
    WHERE month >= toYYYYMM(fromUnixTimestamp64Micro({from_us:Int64}, 'UTC'))
      AND month <= toYYYYMM(fromUnixTimestamp64Micro({to_us:Int64} - 1, 'UTC'))
    GROUP BY month
    UNION ALL
    SELECT month
    FROM usage_batches
    WHERE (max_ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
           AND min_ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC'))
       OR written_at >= fromUnixTimestamp64Micro({written_from_us:Int64}, 'UTC')
    GROUP BY month
)
ORDER BY month
