-- What was refused of a part of the tenant tree, the newest period first. Read from the projection.
--   from_s, to_s
--               whole hours of the zone, half-open, unix seconds
--   timezone    the zone whose hours, days and months are meant; where these do not begin with hours
--               of UTC, `toStartOfHour(ts)` is to be `ts` everywhere: rows are read then
--   root        path of the node; with everything below it
--   per         'hour', 'day', 'month' or 'total'; a total's period starts with `from_s`
--   after_period, after_reason, after_app, after_route, after_tenant
--               rows after this one, in the order of the answer; a period in the far future and
--               '', '', '', '': from the first on
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
    toString(reason) AS reason_id,
    toString(app) AS app_id,
    toString(route) AS route_id,
    toString(tenant) AS tenant_id,
    sum(requests) AS requests
FROM usage_events
WHERE toStartOfHour(ts) >= since
  AND toStartOfHour(ts) < toDateTime({to_s:Int64}, 'UTC')
  AND kind = 'refused'
  AND (path = {root:String} OR startsWith(path, concat({root:String}, '/')))
GROUP BY period, reason_id, app_id, route_id, tenant_id
HAVING (-toInt64(period), reason_id, app_id, route_id, tenant_id)
    > (
        -{after_period:Int64}, {after_reason:String}, {after_app:String}, {after_route:String},
        {after_tenant:String}
    )
ORDER BY period DESC, reason_id, app_id, route_id, tenant_id
LIMIT {rows:UInt32}
