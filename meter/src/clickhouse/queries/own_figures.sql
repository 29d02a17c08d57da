-- As own_usage, of meters whose figure for a period is no sum: how many different members were seen
-- first in it, the largest value, the latest, how many values there were. Read from the rows.
--   figures     the meters, with the byte 1f between them
--   distinct, largest, latest
--               those of them of each kind; of the others values are counted
--   the rest    as own_usage has it
--
-- Flags: 8 a part of a long answer, 32 a figure of a further meter, 64 a member, whose id is its own;
-- 4 a sum of what found no room in the journal, of as many values as its quantity says.
WITH toDateTime({from_s:Int64}, 'UTC') AS since
SELECT
    multiIf(
        {per:String} = 'hour', toUnixTimestamp(toStartOfHour(ts, {timezone:String})),
        {per:String} = 'day', toUnixTimestamp(toStartOfDay(ts, {timezone:String})),
        {per:String} = 'month', toUnixTimestamp(
            toDateTime(toStartOfMonth(ts, {timezone:String}), {timezone:String})),
        toUnixTimestamp(since)
    ) AS period,
    multiIf(
        {by:String} = 'tenant', toString(tenant),
        {by:String} = 'app', toString(app),
        {by:String} = 'route', toString(route),
        ''
    ) AS part,
    toString(meter) AS meter_id,
    sum(events.requests) AS requests,
    multiIf(
        has(splitByChar('\x1f', {distinct:String}), meter_id), toDecimal256(
            uniqExactIf(request_id, bitAnd(flags, 64) != 0), 9),
        has(splitByChar('\x1f', {largest:String}), meter_id), toDecimal256(
            maxIf(events.quantity, bitAnd(flags, 72) = 0), 9),
        has(splitByChar('\x1f', {latest:String}), meter_id), toDecimal256(
            argMaxIf(events.quantity, (ts, node, epoch, lane, sequence), bitAnd(flags, 72) = 0), 9),
        toDecimal256(
            sumIf(events.requests, bitAnd(flags, 96) = 0) + countIf(bitAnd(flags, 100) = 32), 9)
            + toDecimal256(sumIf(events.quantity, bitAnd(flags, 100) = 36), 9)
    ) AS quantity,
    sum(events.request_bytes) AS request_bytes,
    sum(events.response_bytes) AS response_bytes
FROM usage_events AS events
WHERE ts >= since
  AND ts < toDateTime({to_s:Int64}, 'UTC')
  AND kind != 'refused'
  AND has(splitByChar('\x1f', {figures:String}), toString(meter))
  AND (path = {root:String} OR startsWith(path, concat({root:String}, '/')))
GROUP BY period, part, meter_id
HAVING (toInt64(period), part, meter_id)
    > ({after_period:Int64}, {after_part:String}, {after_meter:String})
ORDER BY period, part, meter_id
LIMIT {rows:UInt32}
