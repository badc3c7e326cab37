-- The owner ends one stream, once: the receipt decides, so a repeated or a late call counts nothing twice.
-- KEYS: tomb, streams hash, receipts of the id, statistics hashes. ARGV: epoch, stream key, owner, receipt, its life (ms),
-- life of the statistics (ms), then field and increment pairs.
-- Returns 1 for the one that ended it, the receipt that was there before, or 'stale' for an epoch declared lost.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return 'stale'
end
for k = 4, #KEYS do
  redis.call('HLEN', KEYS[k]) -- a corrupt counter shows before anything is written
end
redis.call('HDEL', KEYS[2], ARGV[2])
if redis.call('HSETNX', KEYS[3], ARGV[3], ARGV[4]) == 0 then
  return redis.call('HGET', KEYS[3], ARGV[3])
end
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
