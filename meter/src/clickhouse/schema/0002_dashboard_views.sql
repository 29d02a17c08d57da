-- Views for dashboards. Plain ones, computed when read: they cannot disagree with the rows, and an
-- insert cannot fail half way through one of them. Filter on the column of time they start with.

-- Requests and errors per minute. `minute` of the last hour or day, not of a year.
CREATE VIEW IF NOT EXISTS {{database}}.requests_per_minute AS
SELECT
    toStartOfMinute(ts) AS minute,
    app,
    route,
    sum(e.requests) AS requests,
    sumIf(e.requests, kind = 'refused') AS refused,
    sumIf(e.requests, kind = 'request' AND status >= 400 AND status < 500) AS client_errors,
    sumIf(e.requests, kind = 'request' AND status >= 500) AS server_errors,
    sumIf(e.requests, bitAnd(flags, 1) != 0) AS aborted
FROM {{database}}.usage_events AS e
WHERE kind != 'ingested'
GROUP BY minute, app, route;

-- Usage of each tenant per day (UTC) and its place among all tenants by requests, the largest first.
CREATE VIEW IF NOT EXISTS {{database}}.top_tenants_per_day AS
SELECT
    day,
    tenant,
    requests,
    refused,
    request_bytes,
    response_bytes,
    row_number() OVER (PARTITION BY day ORDER BY requests DESC, tenant) AS place
FROM
(
    SELECT
        day,
        tenant,
        sum(k.requests) AS requests,
        sumIf(k.requests, kind = 'refused') AS refused,
        sum(k.request_bytes) AS request_bytes,
        sum(k.response_bytes) AS response_bytes
    FROM
    (
        SELECT
            toDate(toStartOfHour(ts)) AS day,
            tenant,
            kind,
            sum(requests) AS requests,
            sum(request_bytes) AS request_bytes,
            sum(response_bytes) AS response_bytes
        FROM {{database}}.usage_events
        GROUP BY day, tenant, kind
    ) AS k
    GROUP BY day, tenant
);

-- Latency of answered requests per route and hour, in milliseconds.
CREATE VIEW IF NOT EXISTS {{database}}.latency_per_route_and_hour AS
SELECT
    toStartOfHour(ts) AS hour,
    app,
    route,
    count() AS requests,
    quantilesTDigest(0.5, 0.9, 0.99, 0.999)(duration_us / 1000) AS quantiles,
    quantiles[1] AS p50_ms,
    quantiles[2] AS p90_ms,
    quantiles[3] AS p99_ms,
    quantiles[4] AS p999_ms,
    max(duration_us) / 1000 AS max_ms,
    quantileTDigest(0.99)(upstream_us / 1000) AS upstream_p99_ms
FROM {{database}}.usage_events
WHERE kind = 'request'
GROUP BY hour, app, route;
