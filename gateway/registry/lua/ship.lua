-- Append entries to shared transcripts, each only where exactly the entries expected are there before it.
-- KEYS: per entry a log and its watch key (one slot). ARGV: the publishing command, then per entry: how many entries are
-- expected (0: whatever is there goes), its id ('' for none: only look), the log's new life in ms (0: as it is), the id
-- below which entries may go ('' for none), how often the writer knows the stream to be claimed, the number of its words,
-- and the words.
-- Returns per entry: how many there are now (negative: somebody watches), or '<how many> <last id>' where it was not as
-- expected, or an error's words.
local function last_of(log)
  local tail = redis.pcall('XREVRANGE', log, '+', '-', 'COUNT', 1)
  return tail[1] and tail[1][1] or ''
end

local function claimed(log)
  local id = last_of(log)
  return id ~= '0-1' and tonumber(string.match(id, '-(%d+)$') or '0') or 0
end

local function ship(log, watch, expected, id, life, trim, epoch, first, last)
  local held = redis.pcall('XLEN', log)
  if expected == 0 and claimed(log) > epoch then
    return held .. ' ' .. last_of(log) -- another node goes on with it
  elseif expected == 0 then
    redis.call('DEL', log) -- an empty one too: it remembers its last id
    held = 0
  elseif type(held) == 'table' then
    return held.err
  elseif held ~= expected then
    return held .. ' ' .. last_of(log)
  end
  if id ~= '' then
    local added = redis.pcall('XADD', log, id, unpack(ARGV, first, last))
    if type(added) == 'table' and added.err then
      return added.err
    end
    held = held + 1
  end
  if trim ~= '' then
    held = held - redis.call('XTRIM', log, 'MINID', '~', trim)
  end
  if life ~= '0' then
    redis.call('PEXPIRE', log, life)
  end
  if redis.call('EXISTS', watch) == 0 then
    return held
  end
  if id ~= '' then
    redis.call(ARGV[1], log, id)
  end
  return -held
end

local answers, at = {}, 2
for i = 1, #KEYS, 2 do
  local first = at + 6
  local last = at + 5 + tonumber(ARGV[at + 5])
  answers[#answers + 1] = ship(
    KEYS[i], KEYS[i + 1], tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4]),
    first, last
  )
  at = last + 1
end
return answers
