-- How the streams that a rollout let in ended, on all nodes, within a window of slots. KEYS: the counts of this rollout.
-- ARGV: length of a slot (ms), slots in the window, then what is new: completed, failed, other. Returns the three sums.
-- The server's clock says which slot it is. Not to be repeated.
local t = redis.call('TIME')
local now = math.floor((t[1] * 1000 + math.floor(t[2] / 1000)) / ARGV[1])
for kind = 1, 3 do
  if ARGV[2 + kind] ~= '0' then
    redis.call('HINCRBY', KEYS[1], string.format('%.0f:%d', now, kind), ARGV[2 + kind])
  end
end
local sums, all = {0, 0, 0}, redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local slot, kind = string.match(all[i], '^(%d+):([123])$')
  slot = tonumber(slot or '0')
  if slot <= now - ARGV[2] or slot > now + 1 then -- too old; or the clock was set back
    redis.call('HDEL', KEYS[1], all[i])
  else
    sums[tonumber(kind)] = sums[tonumber(kind)] + tonumber(all[i + 1])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1] * (ARGV[2] + 1))
return sums
