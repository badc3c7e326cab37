-- Move values of the wrong type out of the way, where somebody may look at them. KEYS: keys of one slot.
-- ARGV: life of the quarantine (ms), then the type each key should have. Returns how many were moved.
local moved = 0
for i = 1, #KEYS do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'none' and ARGV[i + 1] ~= '' and found ~= ARGV[i + 1] then
    redis.call('RENAME', KEYS[i], KEYS[i] .. ':corrupt')
    redis.call('PEXPIRE', KEYS[i] .. ':corrupt', ARGV[1])
    moved = moved + 1
  end
end
return moved
