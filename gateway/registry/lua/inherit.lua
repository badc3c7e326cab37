-- Claim the shared transcript of a stream whose node is gone: one node wins, and nothing the old one sends is taken.
-- KEYS: log. ARGV: the publishing command, the number of terminal entries, the epoch found, the new epoch, the claiming
-- node, the log's life in ms. Returns how many entries there are with the claim; 0: another epoch, over, or no log.
local tail = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if not tail[1] then
  return 0
end
local bytes, epoch = string.match(tail[1][1], '^(%d+)-(%d+)$')
if tail[1][1] == '0-1' then
  epoch = '0' -- the first entry
end
if tonumber(bytes) >= tonumber(ARGV[2]) or epoch ~= ARGV[3] then
  return 0
end
local id = bytes .. '-' .. ARGV[4]
redis.call('XADD', KEYS[1], id, 'c', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
redis.call(ARGV[1], KEYS[1], id)
return redis.call('XLEN', KEYS[1])
