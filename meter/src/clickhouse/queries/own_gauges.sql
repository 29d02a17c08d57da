-- As own_usage, of gauges: by period, how long which level lasted (bytes are byte-hours then), the
-- highest level, and the level at the end. See gauge_by_window for how a level comes about.
--   gauges      the meters, with the byte 1f between them
--   until_us    the end, unix microseconds: of what was asked for, or now
--   by          'tenant'; anything else: of everybody together
--   the rest    as own_usage has it
--
-- Each period begins with a change by nothing, so that what was before lasts into it.
WITH
    told AS
    (
        SELECT
            toString(meter) AS meter_id,
            toString(tenant) AS tenant_id,
            toUnixTimestamp64Micro(ts) AS at_us,
            bitAnd(flags, 32) = 0 AS is_level,
            (node, epoch, lane, sequence) AS place,
            quantity,
            events.requests AS requests,
            path = {root:String} OR startsWith(path, concat({root:String}, '/')) AS is_below
        FROM usage_events AS events
        WHERE has(splitByChar('\x1f', {gauges:String}), toString(meter))
          AND kind != 'refused'
          AND bitAnd(flags, 72) = 0
          AND ts < fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')
          AND (meter, tenant) IN
          (
              SELECT meter, tenant
              FROM usage_events
              WHERE has(splitByChar('\x1f', {gauges:String}), toString(meter))
                AND (path = {root:String} OR startsWith(path, concat({root:String}, '/')))
          )
    ),
    -- From each event on, a new sum.
    spells AS
    (
        SELECT
            *,
            sum(is_level) OVER (
                PARTITION BY meter_id, tenant_id ORDER BY at_us, is_level, place
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
                    PARTITION BY meter_id, tenant_id, spell ORDER BY at_us, is_level, place
                    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
                ),
                0
            ) AS level
        FROM spells
    ),
    changes AS
    (
        SELECT
            meter_id,
            if({by:String} = 'tenant', tenant_id, '') AS part,
            levels.at_us AS happened_us,
            level - lagInFrame(level, 1, toDecimal128(0, 9)) OVER (
                PARTITION BY meter_id, tenant_id ORDER BY levels.at_us, is_level, place
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ) AS change,
            if(is_below AND happened_us >= {from_s:Int64} * 1000000, requests, 0) AS counted
        FROM levels
    ),
    -- The quarters of an hour in which periods begin.
    begins AS
    (
        SELECT DISTINCT
            multiIf(
                {per:String} = 'hour', toUnixTimestamp(toStartOfHour(quarter, {timezone:String})),
                {per:String} = 'day', toUnixTimestamp(toStartOfDay(quarter, {timezone:String})),
                {per:String} = 'month', toUnixTimestamp(
                    toDateTime(toStartOfMonth(quarter, {timezone:String}), {timezone:String})),
                toUnixTimestamp(toDateTime({from_s:Int64}, 'UTC'))
            ) AS begin_s
        FROM
        (
            SELECT toDateTime({from_s:Int64} + 900 * toInt64(number), 'UTC') AS quarter
            FROM numbers(
                toUInt64(intDiv(intDiv({until_us:Int64} - 1, 1000000) - {from_s:Int64}, 900) + 1))
        )
    ),
    steps AS
    (
        SELECT
            meter_id,
            part,
            at_us,
            events,
            sum(net) OVER (
                PARTITION BY meter_id, part ORDER BY at_us
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ) AS total,
            leadInFrame(at_us, 1, {until_us:Int64}) OVER (
                PARTITION BY meter_id, part ORDER BY at_us
                ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
            ) AS next_us
        FROM
        (
            SELECT meter_id, part, at_us, sum(change) AS net, sum(counted) AS events
            FROM
            (
                SELECT
                    meter_id, part, greatest(happened_us, {from_s:Int64} * 1000000) AS at_us,
                    change, counted
                FROM changes
                UNION ALL
                SELECT
                    meter_id, part,
                    greatest(toInt64(begin_s), {from_s:Int64}) * 1000000 AS at_us,
                    toDecimal128(0, 9) AS change,
                    0 AS counted
                FROM (SELECT DISTINCT meter_id, part FROM changes) AS parts
                CROSS JOIN begins
            )
            GROUP BY meter_id, part, at_us
        )
    )
SELECT
    multiIf(
        {per:String} = 'hour', toUnixTimestamp(toStartOfHour(at, {timezone:String})),
        {per:String} = 'day', toUnixTimestamp(toStartOfDay(at, {timezone:String})),
        {per:String} = 'month', toUnixTimestamp(
            toDateTime(toStartOfMonth(at, {timezone:String}), {timezone:String})),
        toUnixTimestamp(toDateTime({from_s:Int64}, 'UTC'))
    ) AS period,
    part,
    meter_id,
    sum(events) AS requests,
    sum(toDecimal256(total, 9) * (next_us - at_us)) / 3600000000 AS quantity,
    toString(max(total)) AS peak,
    toString(argMax(total, at_us)) AS level,
    0 AS request_bytes,
    0 AS response_bytes
FROM (SELECT *, fromUnixTimestamp64Micro(at_us, 'UTC') AS at FROM steps)
GROUP BY period, part, meter_id
HAVING (toInt64(period), part, meter_id)
    > ({after_period:Int64}, {after_part:String}, {after_meter:String})
   AND (requests > 0 OR quantity != 0 OR max(total) != 0)
ORDER BY period, part, meter_id
LIMIT {rows:UInt32}
