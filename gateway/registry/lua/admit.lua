-- Take a concurrency lease by the server's clock. KEYS: leases of the scope. ARGV: stream id, limit, life (ms), then the
-- ids whose lease has been given back a moment ago, by a command that may be on its way still.
-- Returns {1 or 0, leases held now}. A stream that already holds one keeps it: the call may be repeated.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now + ARGV[3]), '+inf') -- the clock was set back
for i = 4, #ARGV do
  redis.call('ZREM', KEYS[1], ARGV[i])
end
local held = redis.call('ZCARD', KEYS[1])
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  if held >= tonumber(ARGV[2]) then
    return {0, held}
  end
  held = held + 1
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {1, held}
