-- The members of some meters that were seen in a span, by path, plan and meter; every node's. Of
-- more than `most` on one path, those members that make the same sketch as all of them do, marked:
-- one for each of 2^14 registers (policy/src/members/sketch.rs).
--
--   from_us, to_us    event times, half-open, unix microseconds
--   meters            with the byte 1f between them
--   most              a number of members
WITH
    reinterpretAsUInt64(substring(UUIDStringToNum(toString(request_id)), 1, 8)) AS number,
    seen AS
    (
        SELECT path, plan, meter, request_id
        FROM usage_events
        WHERE bitAnd(flags, 64) != 0
          AND ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
          AND ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
          AND has(splitByChar('\x1f', {meters:String}), toString(meter))
        GROUP BY path, plan, meter, request_id
    )
SELECT
    path,
    plan,
    meter,
    toString(request_id) AS id,
    members > {most:UInt64} AS is_sketched
FROM
(
    SELECT
        path,
        plan,
        meter,
        request_id,
        count() OVER (PARTITION BY path, plan, meter) AS members,
        row_number() OVER
        (
            PARTITION BY path, plan, meter, number % 16384 ORDER BY bitShiftRight(number, 14)
        ) AS place
    FROM seen
)
WHERE members <= {most:UInt64} OR place = 1
