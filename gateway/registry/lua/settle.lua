-- The owner ends one stream, once: the receipt decides, so a repeated or a late call counts nothing twice.
-- KEYS: tomb, streams hash, receipts of the id, statistics hashes. ARGV: epoch, stream key, owner, receipt, its life (ms),
-- life of the statistics (ms), then field and increment pairs.
-- Returns 1 for the one that ended it, the receipt that was there before, 0 when it was and has been taken away (see
-- `forget`; the mark of an earlier stream counts for nothing), or 'stale' for an epoch declared lost.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return 'stale'
end
for k = 4, #KEYS do
  redis.call('HLEN', KEYS[k]) -- a corrupt counter shows before anything is written
end
redis.call('HDEL', KEYS[2], ARGV[2])
local there = redis.call('HGET', KEYS[3], ARGV[3])
if there and string.sub(there, 1, 1) ~= '-' then
  return there
elseif there == '-' .. redis.sha1hex(ARGV[4]) then
  return 0
end
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
redis.call('PEXPIRE', KEYS[3], ARGV[5])
for k = 4, #KEYS do
  for i = 7, #ARGV, 2 do
    local counted = redis.pcall('HINCRBY', KEYS[k], ARGV[i], ARGV[i + 1])
    if type(counted) == 'table' and counted.err then
      redis.call('HSET', KEYS[k], ARGV[i], ARGV[i + 1])
    end
  end
  redis.call('PEXPIRE', KEYS[k], ARGV[6])
end
return 1
