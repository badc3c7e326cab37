-- Another node ends a stream of a node without a lease, once, and fences that node's last epoch with a tomb.
-- KEYS: tomb, streams hash, receipts of the id, lease, last epoch, statistics hashes. ARGV: stream key, owner, receipt, its
-- life (ms), life of the statistics and the tomb (ms), life of a lease (ms), then field and increment pairs.
-- Returns 1 for the one that ended it. A lease with more life than it was given is one from before the clock was set back.
local left = redis.call('PTTL', KEYS[4])
if left >= 0 and left <= tonumber(ARGV[6]) then
  return 0
end
local epoch = redis.call('GET', KEYS[5])
if epoch then
  redis.call('SET', KEYS[1], epoch, 'PX', ARGV[5])
end
for k = 6, #KEYS do
  redis.call('HLEN', KEYS[k]) -- a corrupt counter shows before anything is written
end
redis.call('HDEL', KEYS[2], ARGV[1])
local there = redis.call('HGET', KEYS[3], ARGV[2])
if there and string.sub(there, 1, 1) ~= '-' then -- or the mark of an earlier stream, see `forget`
  return 0
end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
for k = 6, #KEYS do
  for i = 7, #ARGV, 2 do
    local counted = redis.pcall('HINCRBY', KEYS[k], ARGV[i], ARGV[i + 1])
    if type(counted) == 'table' and counted.err then
      redis.call('HSET', KEYS[k], ARGV[i], ARGV[i + 1])
    end
  end
  redis.call('PEXPIRE', KEYS[k], ARGV[5])
end
return 1
