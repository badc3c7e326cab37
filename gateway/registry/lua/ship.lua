-- Append entries to shared transcripts, each only where exactly the entries expected are there before it.
-- KEYS: per entry a log and its watch key (one slot). ARGV: the publishing command, then two per entry. First five numbers:
-- how many entries are expected (0: whatever is there goes) and how many bytes they hold, the log's new life in ms (0: as it
-- is), the bytes below which entries may go (0: none), how often the writer knows the stream to be claimed. Then the entry
-- ('': only look). As many entries may hold other bytes: a batch that was given up, and then came after all.
-- Returns per entry: how many there are now (negative: somebody watches), or '<how many> <last id>' where it was not as
-- expected, or an error's words.
local function id_of(entry)
  return type(entry) == 'string' and string.match(entry, '^%d+%-%d+') or ''
end

local function last_of(log)
  return id_of(redis.pcall('LINDEX', log, -1))
end

local function bytes_of(id)
  return tonumber(string.match(id, '^%d+') or '0')
end

local function claims_of(id)
  return id ~= '0-1' and tonumber(string.match(id, '%d+$') or '0') or 0
end

local gone = {} -- entries of each log that went in this call: the writer still counts them

local function trimmed(log, held, least)
  while held > 1 and bytes_of(id_of(redis.call('LINDEX', log, 0))) < least do
    redis.call('LPOP', log)
    held, gone[log] = held - 1, (gone[log] or 0) + 1
  end
  return held
end

local function ship(log, watch, numbers, entry)
  local expected, bytes, life, least, claims = string.match(numbers, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  expected = tonumber(expected)
  local held, last = redis.pcall('LLEN', log), last_of(log)
  if expected == 0 then
    if claims_of(last) > tonumber(claims) then
      return held .. ' ' .. last -- another node goes on with it
    end
    redis.call('DEL', log)
  elseif type(held) == 'table' then
    return held.err
  elseif held + (gone[log] or 0) ~= expected or bytes_of(last) ~= tonumber(bytes) then
    return held .. ' ' .. last
  end
  if entry ~= '' then
    held = redis.pcall('RPUSH', log, entry)
    if type(held) == 'table' then
      return held.err
    end
  end
  if least ~= '0' then
    held = trimmed(log, held, tonumber(least))
  end
  if life ~= '0' then
    redis.call('PEXPIRE', log, life)
  end
  if redis.call('EXISTS', watch) == 0 then
    return held
  end
  if entry ~= '' then
    redis.call(ARGV[1], log, id_of(entry))
  end
  return -held
end

local answers = {}
for i = 1, #KEYS, 2 do
  answers[#answers + 1] = ship(KEYS[i], KEYS[i + 1], ARGV[i + 1], ARGV[i + 2])
end
return answers
