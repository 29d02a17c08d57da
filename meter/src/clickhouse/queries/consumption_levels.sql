-- How high each tenant's own level of a gauge is, by all rows there are: what the latest event said
-- of it and what was changed since (gauge_by_window has what it was over time).
--
--   meter             its id
--   node, epoch       whose changes are summed besides
--
-- An event says how high it is; a row flagged 32 says by how much a request changed it. Of both at the
-- same microsecond the event is later. 8 a part, 64 a member.
WITH told AS
(
    SELECT
        tenant,
        max(toUnixTimestamp64Micro(ts)) AS last_us,
        argMax(quantity, (ts, node, epoch, lane, sequence)) AS said
    FROM usage_events
    WHERE meter = {meter:String} AND kind != 'refused' AND bitAnd(flags, 104) = 0
    GROUP BY tenant
)
SELECT
    tenant,
    toString(
        any(said) + sumIf(quantity, toUnixTimestamp64Micro(ts) > last_us AND bitAnd(flags, 32) != 0)
    ) AS level,
    toString(any(last_us)) AS told_us,
    toString(
        sumIf(quantity, bitAnd(flags, 32) != 0 AND node = {node:UInt32} AND epoch = {epoch:UInt32})
    ) AS own
FROM
(
    SELECT tenant, ts, quantity, flags, node, epoch
    FROM usage_events
    WHERE meter = {meter:String} AND kind != 'refused' AND bitAnd(flags, 72) = 0
) AS changes
LEFT JOIN told USING (tenant)
GROUP BY tenant
