-- Every batch of the manifest against its rows, of one month.
--
-- A batch is right when its month has as many rows with its id as listed, no two of them the same
-- event, all of its node, and sums, earliest and latest time and digest are equal. The digest is a
-- sum of one hash for each row, so that it does not depend on any order.
--
-- Sequences are counted in bitmaps, one for each lane of a batch: exact, and a bit for each row
-- instead of a hash table's 32 bytes.
--
--   month                         yyyymm
--   from_us, to_us                event times, half-open, unix microseconds; a batch that overlaps
--                                 them is compared whole
--   written_from_us               batches written since then are compared whatever their times
--   horizon_us                    batches whose last event is older may have left by retention
WITH
    scope AS
    (
        SELECT *
        FROM usage_batches FINAL
        WHERE month = {month:UInt32}
          AND ((max_ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
                AND min_ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC'))
               OR written_at >= fromUnixTimestamp64Micro({written_from_us:Int64}, 'UTC'))
    ),
    found AS
    (
        SELECT
            batch_id,
            sum(lane_rows) AS found_rows,
            sum(lane_events) AS found_events,
            min(lane_min_ts) AS found_min_ts,
            max(lane_max_ts) AS found_max_ts,
            sum(lane_requests) AS found_requests,
            sum(lane_quantity) AS found_quantity,
            sum(lane_request_bytes) AS found_request_bytes,
            sum(lane_response_bytes) AS found_response_bytes,
            sum(lane_digest) AS found_digest,
            groupUniqArray(2)(node) AS found_nodes
        FROM
        (
            SELECT
                batch_id,
                node,
                epoch,
                lane,
                count() AS lane_rows,
                groupBitmap(sequence) AS lane_events,
                min(ts) AS lane_min_ts,
                max(ts) AS lane_max_ts,
                sum(requests) AS lane_requests,
                sum(quantity) AS lane_quantity,
                sum(request_bytes) AS lane_request_bytes,
                sum(response_bytes) AS lane_response_bytes,
                sum({{row_digest}}) AS lane_digest
            FROM usage_events
            WHERE toYYYYMM(ts) = {month:UInt32} AND batch_id IN (SELECT batch_id FROM scope)
            GROUP BY batch_id, node, epoch, lane
        )
        GROUP BY batch_id
    )
SELECT
    countIf(NOT expired) AS checked,
    countIf(expired) AS passed_over,
    countIf(is_wrong) AS wrong,
    groupArrayIf(10)(
        tuple(
            toString(batch_id) AS batch_id,
            node,
            plan,
            {month:UInt32} AS month,
            rows,
            found_rows,
            found_events,
            requests,
            found_requests,
            toString(quantity) AS quantity,
            toString(found_quantity) AS found_quantity,
            request_bytes,
            found_request_bytes,
            response_bytes,
            found_response_bytes,
            toUnixTimestamp64Micro(min_ts) AS min_us,
            toUnixTimestamp64Micro(found_min_ts) AS found_min_us,
            toUnixTimestamp64Micro(max_ts) AS max_us,
            toUnixTimestamp64Micro(found_max_ts) AS found_max_us,
            toString(digest) AS digest,
            toString(found_digest) AS found_digest,
            found_nodes
        ),
        is_wrong
    ) AS examples
FROM
(
    SELECT
        *,
        max_ts < fromUnixTimestamp64Micro({horizon_us:Int64}, 'UTC') AS expired,
        NOT expired AND (
            rows != found_rows
            OR found_rows != found_events
            OR requests != found_requests
            OR quantity != found_quantity
            OR request_bytes != found_request_bytes
            OR response_bytes != found_response_bytes
            OR digest != found_digest
            OR (rows > 0 AND (min_ts != found_min_ts OR max_ts != found_max_ts))
            OR arrayExists(found_node -> found_node != node, found_nodes)
        ) AS is_wrong
    FROM scope
    LEFT JOIN found USING batch_id
)
