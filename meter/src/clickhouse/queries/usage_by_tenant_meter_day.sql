-- Usage by tenant, meter and day.
--   from, to   hours, half-open: '2026-11-01 00:00:00' to '2026-12-01 00:00:00', in UTC
--   timezone   the zone whose days are meant: 'UTC', 'America/Sao_Paulo' (zones with whole hours)
--   tenant     one tenant, or '' for all
SELECT
    tenant,
    meter,
    toDate(toStartOfHour(ts), {timezone:String}) AS day,
    sum(quantity) AS quantity,
    sum(requests) AS requests,
    sum(request_bytes) AS request_bytes,
    sum(response_bytes) AS response_bytes,
    count() AS events
FROM usage_events
WHERE toStartOfHour(ts) >= {from:DateTime('UTC')}
  AND toStartOfHour(ts) < {to:DateTime('UTC')}
  AND ({tenant:String} = '' OR tenant = {tenant:String})
GROUP BY tenant, meter, day
ORDER BY tenant, meter, day
