-- What operators have set, and the server's clock, by which all nodes reckon the time of rules. KEYS: the state.
-- Returns {state or '', Unix time in microseconds}.
local t = redis.call('TIME')
return {redis.call('HGET', KEYS[1], 'state') or '', t[1] * 1000000 + t[2]}
