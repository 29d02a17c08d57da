-- What proves that the rows are complete: a manifest of the batches, what is known to be lost, and
-- how far each node has got. All three are written again after a crash, with the same keys.

-- One row per batch, written once its rows are there and before the journal forgets them. Batches of
-- one plan were read from the same ranges of lanes and differ in their month.
CREATE TABLE IF NOT EXISTS {{database}}.usage_batches
(
    batch_id UInt64,
    node UInt32,
    plan UInt64,
    -- yyyymm, the partition of its rows.
    month UInt32,
    rows UInt64,
    min_ts DateTime64(6, 'UTC'),
    max_ts DateTime64(6, 'UTC'),
    requests UInt64,
    quantity Decimal(38, 9),
    request_bytes UInt64,
    response_bytes UInt64,
    -- Sum of the rows' digests, which do not depend on their order: see queries/audit_batches.sql.
    digest UInt64,
    -- The plan's: every sequence from first to last, both included, is in one of its batches, but for
    -- as many as were skipped because they could not be read.
    ranges Array(Tuple(epoch UInt32, lane UInt16, first UInt64, last UInt64)),
    skipped UInt64,
    written_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(written_at)
PARTITION BY month
ORDER BY batch_id
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Events that were answered, or may have been, and are in no journal any more.
CREATE TABLE IF NOT EXISTS {{database}}.usage_losses
(
    node UInt32,
    epoch UInt32,
    lane UInt16,
    first_sequence UInt64,
    -- 'damaged': this many were there and can no longer be read. 'power': the machine went down
    -- before they were synced; nobody knows how many, if any, were answered after since_ts.
    cause Enum8('damaged' = 1, 'power' = 2),
    events UInt64,
    bytes UInt64,
    since_ts DateTime64(6, 'UTC'),
    until_ts DateTime64(6, 'UTC'),
    noted_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(noted_at)
ORDER BY (node, epoch, lane, first_sequence)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- The latest word of every node. One that is away holds the overall watermark back; one that was
-- stopped with nothing left in its journal, or retired by an operator, does not.
CREATE TABLE IF NOT EXISTS {{database}}.usage_nodes
(
    node UInt32,
    epoch UInt32,
    state Enum8('running' = 1, 'stopped' = 2, 'retired' = 3),
    host String,
    -- Event time below which everything of this node is in usage_events; 1970 while nothing is known.
    watermark DateTime64(6, 'UTC'),
    lanes Array(Tuple(epoch UInt32, lane UInt16, watermark DateTime64(6, 'UTC'))),
    backlog_events UInt64,
    updated_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(updated_at)
ORDER BY node;
