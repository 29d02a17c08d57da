-- Rows that stand beside another row of the same request. A row flagged 8 is more of a request that another row counts, so it counts
-- no request and no quantity; a row flagged 16 is the one that counts it, hence one request. A row
-- flagged 32 or 64 is what another row's request adds to a further meter: no request and no bytes.
--
--   from_us, to_us    event times, half-open, unix microseconds
--   tenant            rows of this tenant and those below it; '' for all
SELECT
    count() AS checked,
    countIf(is_wrong) AS wrong,
    groupArrayIf(10)(
        tuple(
            node,
            epoch,
            lane,
            sequence,
            flags,
            requests,
            toString(quantity) AS quantity,
            toString(batch_id) AS batch_id,
            toUnixTimestamp64Micro(ts) AS ts_us
        ),
        is_wrong
    ) AS examples
FROM
(
    SELECT
        node, epoch, lane, sequence, flags, requests, quantity, batch_id, ts,
        (bitAnd(flags, 8) != 0 AND (requests != 0 OR quantity != 0))
            OR (bitAnd(flags, 16) != 0 AND requests != 1)
            OR (bitAnd(flags, 96) != 0
                AND (requests != 0 OR request_bytes != 0 OR response_bytes != 0)) AS is_wrong
    FROM usage_events
    WHERE bitAnd(flags, 120) != 0
      AND ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
      AND ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
      AND ({tenant:String} = '' OR has(splitByChar('/', path), {tenant:String}))
)
