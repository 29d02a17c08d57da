-- What was counted in a span, by tenant and meter, but for the rows of one node and epoch: what a
-- running gateway counts itself. A row counts in whole units, rounded up, as quotas are charged.
--
--   from_us, to_us    event times, half-open, unix microseconds
--   roots             tenants at the root of their tree, joined with '/'
--   node, epoch       whose rows are left out
SELECT
    path,
    meter,
    toString(count()) AS rows,
    toString(sum(toUInt128(greatest(ceil(quantity), 0)))) AS quantity,
    toString(sum(request_bytes)) AS request_bytes,
    toString(sum(response_bytes)) AS response_bytes
FROM usage_events
WHERE kind != 'refused'
  -- Members are counted by how many different ones there are.
  AND bitAnd(flags, 64) = 0
  AND ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
  AND ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
  AND splitByChar('/', path)[1] IN splitByChar('/', {roots:String})
  AND NOT (node = {node:UInt32} AND epoch = {epoch:UInt32})
GROUP BY path, meter
