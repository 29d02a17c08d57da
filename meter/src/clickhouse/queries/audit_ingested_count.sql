-- How many ingested events there are in scope, to know in how many passes to compare them.
--
-- Rows flagged 32 or 64 are what an event or a request adds to further meters: a member's rows share
-- one id on purpose.
--
--   from_us, to_us    event times, half-open, unix microseconds
--   tenant            rows of this tenant and those below it; '' for all
SELECT count() AS events
FROM usage_events
WHERE kind = 'ingested'
  AND bitAnd(flags, 96) = 0
  AND ts >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
  AND ts < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')
  AND ({tenant:String} = '' OR has(splitByChar('/', path), {tenant:String}))
