-- What rows add up to in a span, by path, plan and meter, but for those that a running gateway counts
-- itself: the rows of its node and epoch from some instant on. What of it counts at which quota is
-- said in policy/src/quota/counted.rs.
--
--   from_us, to_us    event times, half-open, unix microseconds
--   node, epoch       whose rows are left out
--   since_us          of those, the ones dated so or later
--
-- Flags: 32 a figure of a further meter, which stands for no request and is one value; 4 a sum of what
-- found no room in the journal, of as many values as its quantity says; 64 a member. A row counts in
-- whole units, rounded up.
SELECT
    path,
    plan,
    meter,
    toString(
        toUInt128(sumIf(requests, bitAnd(flags, 32) = 0) + countIf(bitAnd(flags, 36) = 32))
            + sum(if(bitAnd(flags, 36) = 36, toUInt128(greatest(quantity, 0)), toUInt128(0)))
    ) AS counted,
    toString(sum(toUInt128(greatest(ceil(quantity), 0)))) AS units,
    toString(sum(request_bytes)) AS request_bytes,
    toString(sum(response_bytes)) AS response_bytes
FROM usage_events
WHERE kind != 'refused'
  AND bitAnd(flags, 64) = 0
  AND ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
  AND ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
  AND NOT
  (
      node = {node:UInt32} AND epoch = {epoch:UInt32}
      AND ts >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')
  )
GROUP BY path, plan, meter
