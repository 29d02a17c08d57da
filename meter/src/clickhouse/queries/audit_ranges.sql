-- The ranges of every plan of the manifest, each plan once, in the order of their lanes: what
-- follows must follow without a gap and without an overlap. A plan's number is unique together with
-- the upper half of its batches' ids, which is drawn when a node's shipping state is made.
--
--   from_us, to_us     event times, half-open, unix microseconds
--   written_from_us    plans with a batch written since then are in scope as well
--   near               gaps to look at again, as (node, epoch, lane, first, last): the plans in
--                      scope, or when not empty those that overlap one of these
WITH
    plans AS
    (
        SELECT
            node,
            bitShiftRight(batch_id, 32) AS ledger,
            plan,
            any(ranges) AS ranges,
            toUnixTimestamp64Micro(min(min_ts)) AS min_us
        FROM usage_batches FINAL
        WHERE notEmpty({near:Array(Tuple(UInt32, UInt32, UInt16, UInt64, UInt64))})
           OR (max_ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
               AND min_ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC'))
           OR written_at >= fromUnixTimestamp64Micro({written_from_us:Int64}, 'UTC')
        GROUP BY node, ledger, plan
    )
SELECT
    node,
    range.epoch AS epoch,
    range.lane AS lane,
    range.first AS first,
    range.last AS last,
    plan,
    min_us
FROM plans
ARRAY JOIN ranges AS range
WHERE empty({near:Array(Tuple(UInt32, UInt32, UInt16, UInt64, UInt64))})
   OR arrayExists(
        gap -> gap.1 = node AND gap.2 = epoch AND gap.3 = lane AND first <= gap.5 AND last >= gap.4,
        {near:Array(Tuple(UInt32, UInt32, UInt16, UInt64, UInt64))}
      )
ORDER BY node, epoch, lane, first, last
