-- Remember the most there ever was. KEYS: the figure. ARGV: what there is now, life (ms). Returns the most.
local most = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
local now = tonumber(ARGV[1])
if now > most then
  most = now
end
redis.call('SET', KEYS[1], string.format('%.0f', most), 'PX', ARGV[2])
return most
