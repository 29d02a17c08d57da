-- A gauge of one tenant and everything below it in a window of time: how long which level lasted
-- (bytes are byte-hours then), the highest level, and the level at the end.
--   from_us, to_us   half-open, unix microseconds
--   tenant           one tenant and those below it, or '' for all
--   meter            its id
--
-- Each tenant has a level of its own. An event says how high it is; a row flagged 32 says by how much
-- a request changed it (of both at the same microsecond, the event comes last). It begins at 0, and
-- what was before the window lasts into it. A tenant that moves away takes its level along with its
-- next row. All levels are added up before the highest is looked for, so that it is one that was
-- there, and changes of one microsecond are one change.
WITH
    told AS
    (
        SELECT
            tenant,
            toUnixTimestamp64Micro(ts) AS at_us,
            bitAnd(flags, 32) = 0 AS is_level,
            (node, epoch, lane, sequence) AS place,
            quantity,
            {tenant:String} = '' OR has(splitByChar('/', path), {tenant:String}) AS is_below
        FROM usage_events
        WHERE meter = {meter:String}
          AND kind != 'refused'
          AND bitAnd(flags, 72) = 0
          AND ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
          AND tenant IN
          (
              SELECT tenant
              FROM usage_events
              WHERE meter = {meter:String}
                AND ({tenant:String} = '' OR has(splitByChar('/', path), {tenant:String}))
          )
    ),
    -- From each event on, a new sum.
    spells AS
    (
        SELECT
            *,
            sum(is_level) OVER (
                PARTITION BY tenant ORDER BY at_us, is_level, place
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ) AS spell
        FROM told
    ),
    levels AS
    (
        SELECT
            *,
            if(
                is_below,
                sum(quantity) OVER (
                    PARTITION BY tenant, spell ORDER BY at_us, is_level, place
                    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
                ),
                0
            ) AS level
        FROM spells
    ),
    changes AS
    (
        SELECT
            greatest(at_us, {from_us:Int64}) AS at_us,
            level - lagInFrame(level, 1, toDecimal128(0, 9)) OVER (
                PARTITION BY tenant ORDER BY levels.at_us, is_level, place
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ) AS change
        FROM levels
        UNION ALL
        SELECT {from_us:Int64} AS at_us, toDecimal128(0, 9) AS change
    ),
    steps AS
    (
        SELECT
            at_us,
            sum(net) OVER (ORDER BY at_us ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS total,
            leadInFrame(at_us, 1, {to_us:Int64}) OVER (
                ORDER BY at_us ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
            ) AS until_us
        FROM (SELECT at_us, sum(change) AS net FROM changes GROUP BY at_us)
    )
SELECT
    sum(toDecimal256(total, 9) * (until_us - at_us)) / 3600000000 AS unit_hours,
    max(total) AS peak,
    argMax(total, at_us) AS level
FROM steps
