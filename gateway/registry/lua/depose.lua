-- Fence the last epoch of a node without a lease, before its streams are claimed. KEYS: tomb, lease, last epoch.
-- ARGV: life of the tomb (ms), life of a lease (ms). Returns 1, or 0 when it has a lease after all.
local left = redis.call('PTTL', KEYS[2])
if left >= 0 and left <= tonumber(ARGV[2]) then
  return 0
end
local epoch = redis.call('GET', KEYS[3])
if epoch then
  redis.call('SET', KEYS[1], epoch, 'PX', ARGV[1])
end
return 1
