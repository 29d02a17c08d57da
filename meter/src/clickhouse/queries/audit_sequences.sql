-- Doubles and gaps straight from the rows, without the manifest: the sequences of a lane are dense
-- from 0 (M3), so a lane has as many rows as different sequences, and as many of these as lie
-- between the first and the last, but for what is known to be lost or has left by retention.
--
-- Sequences are counted in a bitmap: exact, and a bit for each row instead of a hash table's 32
-- bytes.
--
--   from_us, to_us    event times, half-open, unix microseconds
--   tenant            rows of this tenant and those below it; '' for all
--   dense             1 to look for gaps, which only the rows of all times and tenants can show
--   horizon_us        before this, rows may have left by retention; 0 when none can have
--   only              lanes to look at again, each up to a sequence, as (node, epoch, lane, last);
--                     all when empty
WITH
    losses AS
    (
        SELECT node, epoch, lane, groupArray((first_sequence, events)) AS lost_ranges
        FROM usage_losses FINAL
        WHERE cause = 'damaged'
        GROUP BY node, epoch, lane
    ),
    -- At most this many of a lane's rows have left: a batch's lanes share its rows.
    retired AS
    (
        SELECT node, range.epoch AS epoch, range.lane AS lane, sum(rows) AS expired
        FROM usage_batches FINAL
        ARRAY JOIN ranges AS range
        WHERE max_ts < fromUnixTimestamp64Micro({horizon_us:Int64}, 'UTC')
        GROUP BY node, epoch, lane
    )
SELECT
    count() AS lanes,
    sum(rows) AS checked,
    countIf(doubled > 0 OR missing > 0) AS wrong,
    groupArrayIf(1000)(
        tuple(node, epoch, lane, rows, doubled, missing, lost, first, last),
        doubled > 0 OR missing > 0
    ) AS examples
FROM
(
    SELECT
        node,
        epoch,
        lane,
        rows,
        rows - events AS doubled,
        min_sequence AS first,
        max_sequence AS last,
        -- Where nothing can have left, a lane begins at 0.
        if({horizon_us:Int64} = 0, 0, min_sequence) AS start,
        arraySum(
            range -> greatest(
                0,
                toInt64(least(range.1 + range.2, last + 1)) - toInt64(greatest(range.1, start))
            ),
            lost_ranges
        ) AS lost,
        if(
            {dense:UInt8} = 1,
            greatest(
                0,
                toInt64(last - start + 1) - toInt64(events) - toInt64(lost) - toInt64(expired)
            ),
            0
        ) AS missing
    FROM
    (
        SELECT
            node,
            epoch,
            lane,
            count() AS rows,
            groupBitmap(sequence) AS events,
            min(sequence) AS min_sequence,
            max(sequence) AS max_sequence
        FROM usage_events
        WHERE ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
          AND ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
          AND ({tenant:String} = '' OR has(splitByChar('/', path), {tenant:String}))
          AND (empty({only:Array(Tuple(UInt32, UInt32, UInt16, UInt64))}) OR arrayExists(
                one -> one.1 = node AND one.2 = epoch AND one.3 = lane AND sequence <= one.4,
                {only:Array(Tuple(UInt32, UInt32, UInt16, UInt64))}
              ))
        GROUP BY node, epoch, lane
    ) AS lanes
    LEFT JOIN losses USING (node, epoch, lane)
    LEFT JOIN retired USING (node, epoch, lane)
    ORDER BY node, epoch, lane
)
