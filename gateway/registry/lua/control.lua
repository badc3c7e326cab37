-- Replace what operators have set, if nobody else has since. KEYS: the state, the audit (one slot).
-- ARGV: version it was made from, new version, new state, audit line (or ''), audit lines kept.
-- Returns {1, version} or {0, version there, state there}.
local there = tonumber(redis.call('HGET', KEYS[1], 'version') or '0') or 0
if there ~= tonumber(ARGV[1]) then
  return {0, there, redis.call('HGET', KEYS[1], 'state') or ''}
end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'state', ARGV[3])
if ARGV[4] ~= '' then
  redis.call('RPUSH', KEYS[2], ARGV[4])
  redis.call('LTRIM', KEYS[2], -tonumber(ARGV[5]), -1)
end
return {1, tonumber(ARGV[2])}
