-- Put a value where there is none, or in place of a certain one. KEYS: its key. ARGV: value, the one it may replace (''),
-- life (ms). Returns what is there otherwise. To be repeated without harm: the value itself counts as replaced.
local there = redis.call('GET', KEYS[1])
if there and there ~= ARGV[1] and there ~= ARGV[2] then
  return there
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return false
