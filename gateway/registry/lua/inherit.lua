-- Claim the shared transcript of a stream whose node is gone: one node wins, and nothing the old one sends is taken.
-- KEYS: log. ARGV: the publishing command, the number of terminal entries, the epoch found, the new epoch, the claiming
-- node, the log's life in ms. Returns how many entries there are with the claim; 0: another epoch, over, or no log.
local last = redis.pcall('LINDEX', KEYS[1], -1)
if type(last) ~= 'string' then
  return 0
end
local bytes, epoch = string.match(last, '^(%d+)%-(%d+)')
if bytes == '0' and epoch == '1' then
  epoch = '0' -- the first entry
end
if not bytes or tonumber(bytes) >= tonumber(ARGV[2]) or epoch ~= ARGV[3] then
  return 0
end
local id = bytes .. '-' .. ARGV[4]
local held = redis.call('RPUSH', KEYS[1], id .. ' c\n' .. ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
redis.call(ARGV[1], KEYS[1], id)
return held
