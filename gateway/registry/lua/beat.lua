-- Renew a node's lease, unless the fleet has declared this epoch of it lost.
-- KEYS: lease, streams hash, last epoch, tomb. ARGV: boot epoch, life of the lease (ms), life of the others (ms).
-- Returns 'lost', or the epoch that held the lease before ('' when it had run out).
if redis.call('GET', KEYS[4]) == ARGV[1] then
  return 'lost'
end
local before = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return before or ''
