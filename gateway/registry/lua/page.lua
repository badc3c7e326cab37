-- The next entries of a shared transcript. KEYS: log. ARGV: the id behind which they begin ('': from the first on), how
-- many at most. Ids ascend, so the first one is found by halving: what was trimmed in front moves all places.
local held = redis.pcall('LLEN', KEYS[1])
if type(held) == 'table' then
  return held
end
local bytes, epoch = string.match(ARGV[1], '^(%d+)%-(%d+)$')
local low, high = 0, bytes and held or 0
bytes, epoch = tonumber(bytes), tonumber(epoch)

local function behind(place)
  local b, e = string.match(redis.call('LINDEX', KEYS[1], place), '^(%d+)%-(%d+)')
  b, e = tonumber(b), tonumber(e)
  return not b or b > bytes or (b == bytes and e > epoch) -- what nobody can read is for the reader to say
end

while low < high do
  local middle = math.floor((low + high) / 2)
  if behind(middle) then
    high = middle
  else
    low = middle + 1
  end
end
return redis.call('LRANGE', KEYS[1], low, low + ARGV[2] - 1)
