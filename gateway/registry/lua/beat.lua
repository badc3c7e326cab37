-- Renew a node's lease. KEYS: lease, streams hash. ARGV: boot epoch, life of the lease (ms), life of the hash (ms).
-- Returns the epoch that held the lease before ('' when it had run out).
local before = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return before or ''
