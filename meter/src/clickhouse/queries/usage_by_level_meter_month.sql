-- Usage by node of the tenant tree at one level, meter and month. A node's usage is its own and
-- that of everything below it; a tenant above the level stands for itself.
--   from, to   hours, half-open: '2026-01-01 00:00:00' to '2027-01-01 00:00:00', in UTC
--   timezone   the zone whose months are meant: 'UTC', 'America/Sao_Paulo' (zones with whole hours)
--   depth      1 = holding, 2 = subsidiary, 3 = business unit, 4 = department, 5 = team
--   root       path of the node to look below, for example 'acme/acme-brasil', or '' for all
SELECT
    arrayStringConcat(arraySlice(splitByChar('/', path), 1, {depth:UInt8}), '/') AS node,
    meter,
    toYYYYMM(toStartOfHour(ts), {timezone:String}) AS month,
    sum(quantity) AS quantity,
    sum(requests) AS requests,
    sum(request_bytes) AS request_bytes,
    sum(response_bytes) AS response_bytes,
    count() AS events
FROM usage_events
WHERE toStartOfHour(ts) >= {from:DateTime('UTC')}
  AND toStartOfHour(ts) < {to:DateTime('UTC')}
  AND ({root:String} = '' OR path = {root:String} OR startsWith(path, concat({root:String}, '/')))
GROUP BY node, meter, month
ORDER BY node, meter, month
