-- A number that changes with every batch of another node.
--
--   node    the node that asks
SELECT cityHash64(max(written_at), count()) AS mark
FROM usage_batches
WHERE node != {node:UInt32}
