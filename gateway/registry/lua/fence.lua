-- End a shared transcript whose node is gone: no entry can come after this one. A terminal entry that is there stays.
-- KEYS: log. ARGV: the publishing command, the id, the log's life in ms, then the words.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.pcall('XADD', KEYS[1], ARGV[2], unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call(ARGV[1], KEYS[1], ARGV[2])
return 1
