-- The digest of one row of usage_events: what a bill can depend on, in one UInt64. A batch's digest
-- is sum() of this, which depends on no order and wraps. An expression and not a query. Where it
-- stands, no column it reads may be the name of an alias.
--
-- Every field is multiplied by an odd number of its own, so that no change of one field goes
-- unseen; the hash of the sum binds the fields of a row to each other.
-- native/digest.rs computes the same.
intHash64(
    (bitShiftLeft(toUInt64(node), 32) + epoch) * 0x9e3779b97f4a7c15
    + sequence * 0xbf58476d1ce4e5b9
    + (bitShiftLeft(toUInt64(requests), 32) + bitShiftLeft(toUInt64(flags), 24)
        + bitShiftLeft(toUInt64(kind), 16) + lane) * 0x94d049bb133111eb
    + toUInt64(toUnixTimestamp64Micro(ts)) * 0xd6e8feb86659fd93
    + toUInt64(reinterpretAsUInt128(quantity)) * 0xa0761d6478bd642f
    + toUInt64(bitShiftRight(reinterpretAsUInt128(quantity), 64)) * 0xe7037ed1a0b428db
    + request_bytes * 0x8ebc6af09c88c6e3
    + response_bytes * 0x589965cc75374cc3
    + (bitShiftLeft(toUInt64(CRC32(tenant)), 32) + CRC32(meter)) * 0x1d8e4e27c47d124f
    + (bitShiftLeft(toUInt64(CRC32(path)), 32) + CRC32(plan)) * 0xeb44accab455d165
    + (bitShiftLeft(toUInt64(CRC32(app)), 32) + CRC32(route)) * 0x2127599bf4325c37
    + toUInt64(CRC32(reason)) * 0x880355f21e6d1965
)
