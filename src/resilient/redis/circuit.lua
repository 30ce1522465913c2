-- One report and its verdict; see resilient/_machines/quorum.py, which says what
-- each step is for. NB: this is `rule_on` there, operation by operation.
local SETTLING, ASSEMBLING, LONGEST_RIGHT, KEEP, DAY = 0.4, 2.2, 300, 72, 86400
local OPEN, CLOSED, FORCED = 1, 0, 2
local key, id = KEYS[1], ARGV[1]
local a = {}
for i = 2, #ARGV do a[i - 1] = tonumber(ARGV[i]) end
local r_term, r_open, r_openings, r_remaining = a[1], a[2], a[3], a[4]
local r_calls, r_failures, r_slow, r_failing = a[5], a[6], a[7], a[8]
local r_life, minimum, rate, slow_rate = a[9], a[10], a[11], a[12]
local open_for, probed, right, order = a[13], a[14], a[15], a[16]
local now = a[17]
if not now then
    local time = redis.call('TIME')
    now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local function text(number) return string.format('%.17g', number) end

local term, open, openings, until_, met, holder, held = 0, 0, 0, 0, 0, '', 0
local w_calls, w_failures, w_slow = 0, 0, 0
local rows, gone = {}, {}
local had = redis.call('HGETALL', key)
for i = 1, #had, 2 do
    local name, value = had[i], had[i + 1]
    if string.sub(name, 1, 2) == 'm:' then
        local row = {}
        for word in string.gmatch(value, '%S+') do row[#row + 1] = tonumber(word) end
        rows[string.sub(name, 3)] = row
    elseif name == 'term' then term = tonumber(value)
    elseif name == 'open' then open = tonumber(value)
    elseif name == 'openings' then openings = tonumber(value)
    elseif name == 'until' then until_ = tonumber(value)
    elseif name == 'met' then met = tonumber(value)
    elseif name == 'holder' then holder = value
    elseif name == 'held' then held = tonumber(value)
    elseif name == 'calls' then w_calls = tonumber(value)
    elseif name == 'failures' then w_failures = tonumber(value)
    elseif name == 'slow' then w_slow = tonumber(value)
    end
end
local function clear()
    for member in pairs(rows) do gone[member] = true end
    rows = {}
end
if r_term > term then
    term, open, openings = r_term, r_open, r_openings
    until_, met, holder, held = now + r_remaining, 0, '', 0
    w_calls, w_failures, w_slow = r_calls, r_failures, r_slow
    clear()
end
if order ~= 0 then
    term, open, openings = term + 1, order, 0
    until_, met, holder, held = 0, 0, '', 0
    w_calls, w_failures, w_slow = 0, 0, 0
    clear()
end
if open == FORCED then until_ = now + DAY end
if holder ~= '' and (now >= held or held - now > LONGEST_RIGHT) then
    holder, held = '', 0
end
if r_term == term then
    local mine = holder == '' or holder == id
    if open == OPEN and mine and probed ~= 0 then
        term, holder, held, met = term + 1, '', 0, 0
        clear()
        if probed > 0 then
            open, openings, until_ = CLOSED, 0, 0
        else
            openings, until_ = openings + 1, now + open_for
        end
    elseif open <= CLOSED then
        local last
        for _, row in pairs(rows) do
            if 0 <= now - row[1] and now - row[1] < row[2] then
                last = math.max(last or row[1], row[1])
            end
        end
        if not last then
            until_ = now + ASSEMBLING
        elseif until_ <= now and last < until_ - SETTLING then
            until_ = now + SETTLING
        end
        rows[id] = {now, r_life, r_calls, r_failures, r_slow, r_failing}
        gone[id] = nil
    end
end
local calls, failures, slow, failing, members = 0, 0, 0, 0, 0
for member, row in pairs(rows) do
    local age = now - row[1]
    if age < 0 or age >= row[2] or row[3] == 0 then
        gone[member] = true
    else
        calls, failures, slow = calls + row[3], failures + row[4], slow + row[5]
        failing, members = failing + row[6], members + 1
    end
end
for member in pairs(gone) do rows[member] = nil end
if open <= CLOSED then
    local enough = calls > 0 and calls >= minimum
    local shares = enough and (failures / calls >= rate or slow / calls >= slow_rate)
    local assembling = 0 < until_ - now and until_ - now <= ASSEMBLING
    local majority = failing >= 2 and failing * 2 > members
    if not (shares and majority) then
        met = 0
    elseif met == 0 or met > now then
        met = now
    elseif now - met >= SETTLING and r_failing == 1 and not assembling then
        term, open, openings = term + 1, OPEN, openings + 1
        until_, met = now + open_for, 0
        w_calls, w_failures, w_slow = calls, failures, slow
        clear()
    end
elseif right > 0 and r_term == term and (holder == '' or holder == id) then
    holder, held = id, now + math.min(right, LONGEST_RIGHT)
end
if open == OPEN then calls, failures, slow = w_calls, w_failures, w_slow end
for member in pairs(gone) do redis.call('HDEL', key, 'm:' .. member) end
if rows[id] then
    local row = {}
    for i = 1, 6 do row[i] = text(rows[id][i]) end
    redis.call('HSET', key, 'm:' .. id, table.concat(row, ' '))
end
redis.call('HSET', key, 'term', text(term), 'open', text(open),
    'openings', text(openings), 'until', text(until_), 'met', text(met),
    'holder', holder, 'held', text(held), 'calls', text(w_calls),
    'failures', text(w_failures), 'slow', text(w_slow))
redis.call('PEXPIRE', key, string.format('%.0f',
    1000 * (KEEP + math.max(0, math.min(DAY, until_ - now)))))
return {text(term), text(open), text(openings), text(until_ - now),
    (holder == id and open == OPEN) and '1' or '0', text(calls), text(failures),
    text(slow), text(failing), text(members)}
