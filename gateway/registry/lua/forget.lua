-- Take the receipt of a refused stream away, so that its id is free. What stays is a mark: a late or repeated `settle` of it
-- must not count it again. KEYS: receipts of the id. ARGV: owner, the receipt. Returns 1, or 0 when it was not this one.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], '-' .. redis.sha1hex(ARGV[2]))
return 1
