-- Lanes of which their node says that it shipped more than the manifest knows: the end of a lane, or
-- all of one, is in no plan. The lane's last plan was listed when it advanced or later.
--
--   from_us, to_us     lanes that advanced in this time, half-open, unix microseconds
--   written_from_us    lanes that advanced since then as well
--   horizon_us         plans of lanes that advanced before this may have left by retention
WITH
    scope AS
    (
        SELECT node, epoch, lane, shipped, advanced_at
        FROM usage_lanes FINAL
        WHERE toUnixTimestamp64Milli(advanced_at) * 1000 >= {horizon_us:Int64}
          AND ((advanced_at >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
                AND advanced_at < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC'))
               OR advanced_at >= fromUnixTimestamp64Micro({written_from_us:Int64}, 'UTC'))
    ),
    reached AS
    (
        SELECT node, range.epoch AS epoch, range.lane AS lane, max(range.last) + 1 AS listed
        FROM usage_batches
        ARRAY JOIN ranges AS range
        WHERE written_at >= (SELECT min(advanced_at) FROM scope)
        GROUP BY node, epoch, lane
    )
SELECT
    count() AS checked,
    countIf(listed < shipped) AS wrong,
    groupArrayIf(1000)(
        tuple(
            node,
            epoch,
            lane,
            listed,
            shipped,
            toUnixTimestamp64Milli(advanced_at) * 1000 AS advanced_us
        ),
        listed < shipped
    ) AS examples
FROM
(
    SELECT *
    FROM scope
    LEFT JOIN reached USING (node, epoch, lane)
    ORDER BY node, epoch, lane
)
