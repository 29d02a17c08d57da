-- How far each lane was shipped, in the words of the node that shipped it. It says so once the batches
-- are listed, and says all it knows again at every start and every hour: a database that was restored
-- from an older backup is told what it lacks, and the audit finds it.
CREATE TABLE IF NOT EXISTS {{database}}.usage_lanes
(
    node UInt32,
    epoch UInt32,
    lane UInt16,
    -- Every sequence below is of a batch that was listed.
    shipped UInt64,
    -- When the last of these was.
    advanced_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(shipped)
ORDER BY (node, epoch, lane)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- 'header': a segment of the journal has lost its header, and nobody can say which events it held.
-- 'uncounted': so many requests were answered and found no place to be counted in.
ALTER TABLE {{database}}.usage_losses
    MODIFY COLUMN cause Enum8('damaged' = 1, 'power' = 2, 'header' = 3, 'uncounted' = 4);
