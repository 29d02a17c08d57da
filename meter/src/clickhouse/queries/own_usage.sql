-- What a part of the tenant tree used: by period, by what it is broken down into, and by meter.
-- Of meters that add up; the others' figures are own_figures. Refusals are not usage. Read from the
-- projection.
--   from_s, to_s
--               whole hours of the zone, half-open, unix seconds
--   timezone    the zone whose hours, days and months are meant; where these do not begin with hours
--               of UTC, `toStartOfHour(ts)` is to be `ts` everywhere: rows are read then
--   root        path of the node; its usage is its own and that of everything below it
--   per         'hour', 'day', 'month' or 'total'; a total's period starts with `from_s`
--   by          'tenant', 'app', 'route'; anything else: by meter alone
--   others      the meters that do not add up, with the byte 1f between them
--   after_period, after_part, after_meter
--               rows after this one, in the order of the answer; -1, '', '': from the first on
--   rows        at most so many
WITH toDateTime({from_s:Int64}, 'UTC') AS since
SELECT
    multiIf(
        {per:String} = 'hour', toUnixTimestamp(toStartOfHour(toStartOfHour(ts), {timezone:String})),
        {per:String} = 'day', toUnixTimestamp(toStartOfDay(toStartOfHour(ts), {timezone:String})),
        {per:String} = 'month', toUnixTimestamp(
            toDateTime(toStartOfMonth(toStartOfHour(ts), {timezone:String}), {timezone:String})),
        toUnixTimestamp(since)
    ) AS period,
    multiIf(
        {by:String} = 'tenant', toString(tenant),
        {by:String} = 'app', toString(app),
        {by:String} = 'route', toString(route),
        ''
    ) AS part,
    toString(meter) AS meter_id,
    sum(requests) AS requests,
    sum(quantity) AS quantity,
    sum(request_bytes) AS request_bytes,
    sum(response_bytes) AS response_bytes
FROM usage_events
WHERE toStartOfHour(ts) >= since
  AND toStartOfHour(ts) < toDateTime({to_s:Int64}, 'UTC')
  AND kind != 'refused'
  AND NOT has(splitByChar('\x1f', {others:String}), toString(meter))
  AND (path = {root:String} OR startsWith(path, concat({root:String}, '/')))
GROUP BY period, part, meter_id
HAVING (toInt64(period), part, meter_id)
    > ({after_period:Int64}, {after_part:String}, {after_meter:String})
ORDER BY period, part, meter_id
LIMIT {rows:UInt32}
