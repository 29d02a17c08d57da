-- Ingested events that are there more than once. Their request id is made of the event's source and
-- id, so it is the same whichever node took the event, and however often it was sent.
--
--   from_us, to_us    event times, half-open, unix microseconds
--   tenant            rows of this tenant and those below it; '' for all
SELECT
    sum(rows) AS checked,
    countIf(rows > 1) AS wrong,
    groupArrayIf(10)(
        tuple(
            toString(request_id) AS request_id,
            rows,
            nodes,
            toUnixTimestamp64Micro(first_ts) AS min_us,
            toUnixTimestamp64Micro(last_ts) AS max_us
        ),
        rows > 1
    ) AS examples
FROM
(
    SELECT
        request_id,
        count() AS rows,
        groupUniqArray(10)(node) AS nodes,
        min(ts) AS first_ts,
        max(ts) AS last_ts
    FROM usage_events
    WHERE kind = 'ingested'
      AND ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
      AND ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
      AND ({tenant:String} = '' OR has(splitByChar('/', path), {tenant:String}))
    GROUP BY request_id
)
