-- A rate by the generic cell rate algorithm, by the server's clock. KEYS: the mark. ARGV: per minute, cost, 1: charge
-- without asking (a negative cost gives back). Times in microseconds. Returns {1 or 0, microseconds until it would fit}.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local minute, debt = 60000000, 3600000000
local limit, cost = tonumber(ARGV[1]), tonumber(ARGV[2])
local mark = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
if mark > now + debt then
  mark = now -- the clock was set back
end
local start, step = math.max(mark, now), minute / limit
if ARGV[3] ~= '1' then
  local over = start + math.min(cost, limit) * step - now - minute
  if over > 1 then
    return {0, math.ceil(over)}
  end
end
local new = math.min(start + cost * step, now + debt)
if new > now then
  redis.call('SET', KEYS[1], string.format('%.0f', new), 'PX', math.ceil((new - now) / 1000))
else
  redis.call('DEL', KEYS[1])
end
return {1, 0}
