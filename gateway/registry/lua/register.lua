-- Write running streams of one node, unless a receipt says they have ended. All keys share the node's slot.
-- KEYS: tomb, streams hash, then one receipts hash per stream. ARGV: epoch, then key, owner and entry per stream.
-- Returns the keys that have a receipt, or 'stale' when this epoch was declared lost: nothing is written then.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return 'stale'
end
local fenced = {}
for i = 3, #KEYS do
  local at = 3 * i - 7
  local there = redis.call('HGET', KEYS[i], ARGV[at + 1])
  if there and string.sub(there, 1, 1) ~= '-' then -- or the mark of an earlier stream, see `forget`
    fenced[#fenced + 1] = ARGV[at]
  else
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 2])
  end
end
return fenced
