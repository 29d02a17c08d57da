-- Rows whose batch the manifest does not name, of one month, by batch.
--
-- The manifest's row is written after the batch's, so an insert in flight looks like this for about
-- a second. Listed for another month is not listed: a batch is of one month.
--
--   month             yyyymm
--   from_us, to_us    event times, half-open, unix microseconds
--   horizon_us        rows older than this may outlive their batch's row in the manifest
--   only              ids of batches to look at again; all when empty
SELECT
    (
        SELECT count()
        FROM usage_events
        WHERE toYYYYMM(ts) = {month:UInt32}
          AND ts >= fromUnixTimestamp64Micro(greatest({from_us:Int64}, {horizon_us:Int64}), 'UTC')
          AND ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
    ) AS checked,
    count() AS wrong,
    -- Nodes, and the batches and rows of each.
    sumMap([node], [1], [rows]) AS by_node,
    groupArray(1000)(
        tuple(
            toString(batch_id) AS batch_id,
            node,
            {month:UInt32} AS month,
            rows,
            toUnixTimestamp64Micro(min_ts) AS min_us,
            toUnixTimestamp64Micro(max_ts) AS max_us
        )
    ) AS examples
FROM
(
    SELECT batch_id, node, count() AS rows, min(ts) AS min_ts, max(ts) AS max_ts
    FROM usage_events
    WHERE toYYYYMM(ts) = {month:UInt32}
      AND ts >= fromUnixTimestamp64Micro(greatest({from_us:Int64}, {horizon_us:Int64}), 'UTC')
      AND ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
      AND (empty({only:Array(UInt64)}) OR batch_id IN {only:Array(UInt64)})
      AND batch_id NOT IN (SELECT batch_id FROM usage_batches WHERE month = {month:UInt32})
    GROUP BY batch_id, node
    ORDER BY batch_id, node
)
