-- Ingested events that are there more than once. Their request id is made of the event's source and
-- id, so it is the same whichever node took the event, and however often it was sent.
--
-- Asked in several passes, each of some of the ids: a grouping of all of them would not fit in
-- memory, and going to the disk takes as much memory again when it is read back.
--
-- Rows flagged 32 or 64 are what an event or a request adds to further meters: a member's rows share
-- one id on purpose.
--
--   from_us, to_us    event times, half-open, unix microseconds
--   tenant            rows of this tenant and those below it; '' for all
--   passes, pass      how many passes there are, and which this is, from 0
SELECT
    sum(rows) AS checked,
    countIf(rows > 1) AS wrong,
    groupArrayIf(10)(
        tuple(
            request_id,
            rows,
            arrayDistinct([min_node, max_node]) AS nodes,
            toUnixTimestamp64Micro(min_ts) AS min_us,
            toUnixTimestamp64Micro(max_ts) AS max_us
        ),
        rows > 1
    ) AS examples
FROM
(
    SELECT
        request_id,
        count() AS rows,
        min(node) AS min_node,
        max(node) AS max_node,
        min(ts) AS min_ts,
        max(ts) AS max_ts
    FROM usage_events
    WHERE kind = 'ingested'
      AND bitAnd(flags, 96) = 0
      AND ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
      AND ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
      AND ({tenant:String} = '' OR has(splitByChar('/', path), {tenant:String}))
      AND cityHash64(request_id) % {passes:UInt64} = {pass:UInt64}
    GROUP BY request_id
)
