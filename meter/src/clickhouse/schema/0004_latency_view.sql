-- Latency of answered requests per route and hour, in milliseconds: of rows that count a request, and
-- not of those that stand beside one (parts of long answers, figures of further meters).
CREATE OR REPLACE VIEW {{database}}.latency_per_route_and_hour AS
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
FROM {{database}}.usage_events AS e
WHERE kind = 'request' AND e.requests > 0
GROUP BY hour, app, route;
