-- End a shared transcript whose node is gone: no entry can come after this one. A terminal entry that is there stays.
-- KEYS: log. ARGV: the publishing command, the number of terminal entries, the log's life in ms, the entry.
local last = redis.pcall('LINDEX', KEYS[1], -1)
if type(last) ~= 'string' then
  return 0
end
if tonumber(string.match(last, '^%d+') or '0') < tonumber(ARGV[2]) then
  redis.call('RPUSH', KEYS[1], ARGV[4])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call(ARGV[1], KEYS[1], ARGV[2])
return 1
