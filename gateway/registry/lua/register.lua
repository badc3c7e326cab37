-- Write running streams of one node, unless a receipt says they have ended. All keys share the node's slot.
-- KEYS: streams hash, then one receipt key per stream. ARGV: id and entry, per stream. Returns the ids that have a receipt.
local fenced = {}
for i = 2, #KEYS do
  local id = ARGV[2 * i - 3]
  if redis.call('EXISTS', KEYS[i]) == 1 then
    fenced[#fenced + 1] = id
  else
    redis.call('HSET', KEYS[1], id, ARGV[2 * i - 2])
  end
end
return fenced
