-- Refused requests by reason, tenant, app and route.
--   from, to   hours, half-open: '2026-11-01 00:00:00' to '2026-12-01 00:00:00', in UTC
--   tenant     one tenant, or '' for all
SELECT
    reason,
    tenant,
    app,
    route,
    sum(requests) AS requests
FROM usage_events
WHERE toStartOfHour(ts) >= {from:DateTime('UTC')}
  AND toStartOfHour(ts) < {to:DateTime('UTC')}
  AND kind = 'refused'
  AND ({tenant:String} = '' OR tenant = {tenant:String})
GROUP BY reason, tenant, app, route
ORDER BY requests DESC, reason, tenant, app, route
