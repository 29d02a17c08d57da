-- Every plan of the manifest: its batches' rows and what was skipped must be as many as its ranges
-- are long, all its batches must tell the same of it, and what was skipped must be a known loss.
--
--   from_us, to_us, written_from_us    a plan with a batch in this scope is looked at whole
--   settled_us                         plans with events before this may have lost batches by
--                                      retention and are passed over
WITH
    scope AS
    (
        SELECT node, bitShiftRight(batch_id, 32) AS ledger, plan
        FROM usage_batches
        WHERE (max_ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
               AND min_ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC'))
           OR written_at >= fromUnixTimestamp64Micro({written_from_us:Int64}, 'UTC')
    ),
    plans AS
    (
        SELECT
            node,
            bitShiftRight(batch_id, 32) AS ledger,
            plan,
            sum(rows) AS plan_rows,
            any(ranges) AS plan_ranges,
            any(skipped) AS plan_skipped,
            uniqExact(ranges, skipped) AS versions,
            arraySum(range -> range.last - range.first + 1, plan_ranges) AS events,
            min(min_ts) AS plan_min_ts
        FROM usage_batches FINAL
        WHERE (node, ledger, plan) IN (SELECT node, ledger, plan FROM scope)
        GROUP BY node, ledger, plan
        HAVING plan_min_ts >= fromUnixTimestamp64Micro({settled_us:Int64}, 'UTC')
    ),
    explained AS
    (
        SELECT
            node,
            ledger,
            plan,
            sum(
                least(range.last + 1, losses.first_sequence + losses.events)
                - greatest(range.first, losses.first_sequence)
            ) AS lost
        FROM (SELECT node, ledger, plan, plan_ranges FROM plans WHERE plan_skipped > 0) AS p
        ARRAY JOIN plan_ranges AS range
        INNER JOIN
        (
            SELECT node, epoch, lane, first_sequence, events
            FROM usage_losses FINAL
            WHERE cause = 'damaged' AND events > 0
        ) AS losses
        ON losses.node = p.node AND losses.epoch = range.epoch AND losses.lane = range.lane
        WHERE losses.first_sequence <= range.last
          AND losses.first_sequence + losses.events > range.first
        GROUP BY node, ledger, plan
    )
SELECT
    count() AS checked,
    countIf(is_wrong) AS wrong,
    groupArrayIf(10)(
        tuple(
            node,
            plan,
            plan_rows AS rows,
            plan_skipped AS skipped,
            events,
            versions,
            lost,
            toUnixTimestamp64Micro(plan_min_ts) AS min_us
        ),
        is_wrong
    ) AS examples
FROM
(
    SELECT
        *,
        plan_rows + plan_skipped != events OR versions != 1 OR plan_skipped > lost AS is_wrong
    FROM plans
    LEFT JOIN explained USING (node, ledger, plan)
    ORDER BY node, ledger, plan
)
