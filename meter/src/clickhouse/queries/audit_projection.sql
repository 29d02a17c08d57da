-- Sums by hour and meter of one month. Asked twice, once of the rows (optimize_use_projections = 0)
-- and once of the projection that bills are made of (force_optimize_projection = 1): both must say
-- the same. Filters by hours, as everything that is to be read from the projection must.
--
--   month             yyyymm
--   from_us, to_us    event times, half-open, unix microseconds; hours that overlap them
--   tenant            rows of this tenant and those below it; '' for all
SELECT
    toUnixTimestamp(toStartOfHour(ts)) AS hour_s,
    meter,
    count() AS rows,
    sum(requests) AS requests,
    sum(quantity) AS quantity,
    sum(request_bytes) AS request_bytes,
    sum(response_bytes) AS response_bytes
FROM usage_events
WHERE toYYYYMM(toStartOfHour(ts)) = {month:UInt32}
  AND toStartOfHour(ts) >= toStartOfHour(fromUnixTimestamp64Micro({from_us:Int64}, 'UTC'))
  AND toStartOfHour(ts) <= toStartOfHour(fromUnixTimestamp64Micro({to_us:Int64} - 1, 'UTC'))
  AND ({tenant:String} = '' OR has(splitByChar('/', path), {tenant:String}))
GROUP BY toStartOfHour(ts), meter
ORDER BY hour_s, meter
