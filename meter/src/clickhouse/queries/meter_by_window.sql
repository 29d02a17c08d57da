-- One meter's figure for one tenant and everything below it, in any window of time: to the
-- microsecond, so that it serves the calendar of any zone. Reads rows and not the projection.
--   from_us, to_us   event times, half-open, unix microseconds
--   tenant           one tenant and those below it, or '' for all
--   meter            its id; 'data_in' and 'data_out' are the bytes of every row besides what events
--                    say
--   aggregate        'count', 'sum', 'max', 'distinct' or 'last', as the meter's table has it; a
--                    gauge's figures are those of gauge_by_window
--
-- Flags: 8 a part of a long answer (its quantity is 0), 32 a figure of a further meter (it counts no
-- request), 64 a member, whose id is the member's; 4 a sum of what found no room in the journal, which
-- stands for as many figures of a counting meter as its quantity says. Nothing there is 0.
WITH
    CAST({aggregate:String}, 'Enum8(\'count\' = 1, \'sum\' = 2, \'max\' = 3, \'distinct\' = 4, \'last\' = 5)') AS how,
    meter = {meter:String} AND bitAnd(flags, 64) = 0 AS is_ours,
    is_ours AND bitAnd(flags, 8) = 0 AS is_value
SELECT
    multiIf(
        how = 'count', toDecimal256(
            sumIf(requests, is_ours AND bitAnd(flags, 32) = 0)
                + countIf(is_ours AND bitAnd(flags, 36) = 32), 9)
            + toDecimal256(sumIf(quantity, is_ours AND bitAnd(flags, 36) = 36), 9),
        how = 'sum', toDecimal256(sumIf(quantity, is_ours), 9)
            + toDecimal256(sumIf(request_bytes, {meter:String} = 'data_in' AND kind = 'request'), 9)
            + toDecimal256(sumIf(response_bytes, {meter:String} = 'data_out' AND kind = 'request'), 9),
        how = 'max', toDecimal256(maxIf(quantity, how = 'max' AND is_value), 9),
        how = 'last', toDecimal256(
            argMaxIf(quantity, (ts, node, epoch, lane, sequence), how = 'last' AND is_value), 9),
        toDecimal256(
            uniqExactIf(
                request_id,
                how = 'distinct' AND meter = {meter:String} AND bitAnd(flags, 64) != 0
            ), 9)
    ) AS value
FROM usage_events
WHERE ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
  AND ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
  AND kind != 'refused'
  AND (meter = {meter:String} OR {meter:String} IN ('data_in', 'data_out'))
  AND ({tenant:String} = '' OR has(splitByChar('/', path), {tenant:String}))
