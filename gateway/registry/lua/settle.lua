-- End one stream, once: the receipt key decides, so a repeated or a late call (the owner's, a reaper's) counts nothing twice.
-- KEYS: lease, streams hash, receipt, statistics hashes. ARGV: id, receipt, its life (ms), '1' to end only streams of a
-- node without a lease, life of the statistics (ms), then field and increment pairs. Returns 1 for the one that ended it.
if ARGV[4] == '1' and redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
if not redis.call('SET', KEYS[3], ARGV[2], 'NX', 'PX', ARGV[3]) then
  return 0
end
for k = 4, #KEYS do
  for i = 6, #ARGV, 2 do
    redis.call('HINCRBY', KEYS[k], ARGV[i], ARGV[i + 1])
  end
  redis.call('PEXPIRE', KEYS[k], ARGV[5])
end
return 1
