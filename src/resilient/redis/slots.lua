-- One claim and its grant; see resilient/_machines/allotment.py, which says what
-- each step is for. NB: this is `allot` there, operation by operation.
local KEEP, DAY, DELAY = 60, 86400, 0.25
local key, id = KEYS[1], ARGV[1]
local a = {}
for i = 2, #ARGV do a[i - 1] = tonumber(ARGV[i]) end
local c_seq, c_time, elapsed, c_limit = a[1], a[2], a[3], a[4]
local keeps, needs, c_wants, lease = a[5], a[6], a[7], a[8]
local returns = a[9]
local now = a[10]
if not now then
    local clock = redis.call('TIME')
    now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
end
local function text(number) return string.format('%.17g', number) end

local seq, shift, learning, had_limit, agreed = 0, 0, 0, 0, -1
local rows = {}
local had = redis.call('HGETALL', key)
for i = 1, #had, 2 do
    local name, value = had[i], had[i + 1]
    if string.sub(name, 1, 2) == 'm:' then
        local row = {}
        for word in string.gmatch(value, '%S+') do row[#row + 1] = tonumber(word) end
        rows[string.sub(name, 3)] = row
    elseif name == 'seq' then seq = tonumber(value)
    elseif name == 'shift' then shift = tonumber(value)
    elseif name == 'learning' then learning = tonumber(value)
    elseif name == 'limit' then had_limit = tonumber(value)
    elseif name == 'agreed' then agreed = tonumber(value)
    end
end
local time = now - shift
if elapsed >= 0 then
    local jump = time - c_time - elapsed
    if jump > DELAY or jump < -DELAY then
        shift = shift + jump
        time = now - shift
    end
end
local ended, own = -math.huge, -math.huge
for member, row in pairs(rows) do
    if member == id then own = row[2]
    elseif row[1] > 0 then ended = math.max(ended, row[2])
    end
end
local silent = math.max(ended, own) <= time and time < ended + KEEP
if c_seq > seq or returns == 1 or silent then learning = time + lease end
seq = math.max(seq, c_seq) + 1
local limit = c_limit
if agreed < 0 or limit <= had_limit or time - agreed >= KEEP then
    agreed = time
else
    limit = had_limit
end
local used, lacking, members = 0, 0, 1
for member, row in pairs(rows) do
    if member ~= id then
        if time < row[2] then
            used, lacking, members = used + row[1], lacking + row[3], members + 1
        else
            redis.call('HDEL', key, 'm:' .. member)
        end
    end
end
local slots = keeps
if time >= learning then
    local wants = c_wants
    if lacking > 0 then wants = math.min(wants, math.max(1, math.floor(limit / members))) end
    slots = math.max(slots, math.min(wants, limit - used))
end
local lacks = slots < needs and 1 or 0
if slots > 0 or lacks == 1 then
    redis.call('HSET', key, 'm:' .. id,
        text(slots) .. ' ' .. text(time + lease) .. ' ' .. text(lacks))
elseif rows[id] then
    redis.call('HDEL', key, 'm:' .. id)
end
redis.call('HSET', key, 'seq', text(seq), 'shift', text(shift),
    'learning', text(learning), 'limit', text(limit), 'agreed', text(agreed))
redis.call('EXPIRE', key, DAY)
return {text(seq), text(time), text(slots), text(limit), text(members), text(lacking)}
