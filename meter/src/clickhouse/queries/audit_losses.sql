-- What is known to be lost, in scope. A loss without a time is always in scope.
--
--   from_us, to_us     event times, half-open, unix microseconds
--   written_from_us    losses noted since then are in scope whatever their times
SELECT
    node,
    epoch,
    lane,
    first_sequence,
    toString(cause) AS cause,
    events,
    bytes,
    toUnixTimestamp64Micro(since_ts) AS since_us,
    toUnixTimestamp64Micro(until_ts) AS until_us,
    toUnixTimestamp64Milli(noted_at) * 1000 AS noted_us
FROM usage_losses FINAL
WHERE (until_ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
       AND since_ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC'))
   OR toUnixTimestamp64Micro(until_ts) = 0
   OR noted_at >= fromUnixTimestamp64Micro({written_from_us:Int64}, 'UTC')
ORDER BY node, epoch, lane, first_sequence
