-- Give a claim back, if it is still the one that was granted. KEYS: claim. ARGV: its token.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
