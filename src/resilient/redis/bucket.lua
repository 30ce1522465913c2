-- One ask and its answer; see resilient/_machines/shared_bucket.py, which says
-- what each step is for. NB: this is `answer` there, operation by operation.
local KEEP, DELAY, ROUNDING = 60, 0.25, 1e-9
local key = KEYS[1]
local a = {}
for i = 1, #ARGV do a[i] = tonumber(ARGV[i]) end
local rate, capacity, want, least = a[1], a[2], a[3], a[4]
local ask_spent, span, ask_excess = a[5], a[6], a[7]
local credit, issued, deposit, ceiling = a[8], a[9], a[10], a[11]
local reset, orders, order = a[12], a[13], {a[14], a[15], a[16], a[17]}
local seen_level, seen_time, elapsed, seen_credited = a[18], a[19], a[20], a[21]
local recalls = elapsed >= 0
local now = a[22]
if not now then
    local time = redis.call('TIME')
    now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local function text(number) return string.format('%.17g', number) end

local had = redis.call('HMGET', key, 'level', 'time', 'full', 'born', 'credited',
    'over', 'over_from', 'over_until', 'rate', 'capacity', 'agreed',
    'order_number', 'order_rate', 'order_per', 'order_burst')
local known = tonumber(had[12] or 0)
if orders == 1 then order[1] = math.max(known, order[1]) + 1 end
local lost = false
local level, full, born, credited, agreed, over, over_from, over_until
if not had[1] then
    level, full, born, credited, agreed = capacity, now, 0, 0, now
    local away = span
    if recalls then away = elapsed end
    over, over_from, over_until = rate * away, now - away, now
    if recalls then
        local life = (capacity - seen_level) / rate + KEEP
        if elapsed < life then
            lost = true
            level = math.min(0, seen_level + rate * elapsed)
            born = now
            over = 0
        end
    end
else
    for i = 1, 15 do had[i] = tonumber(had[i] or 0) end
    level, full, born, credited, agreed = had[1], had[3], had[4], had[5], had[11]
    over, over_from, over_until = had[6], had[7], had[8]
    local had_time, had_rate, had_capacity = had[2], had[9], had[10]
    if order[1] < known then
        rate, capacity = had_rate, had_capacity
        order = {known, had[13], had[14], had[15]}
    elseif order[1] > known or (rate <= had_rate and capacity <= had_capacity) then
        agreed = now
    elseif now - agreed < KEEP then
        rate = math.min(rate, had_rate)
        capacity = math.min(capacity, had_capacity)
    else
        agreed = now
    end
    local refill = now - had_time
    local since = 0
    if recalls then
        since = now - seen_time
        local jump = since - elapsed
        if jump > DELAY then refill = refill - jump end
        if jump > DELAY or jump < -DELAY then since = elapsed end
    end
    level = level + rate * math.max(0, refill)
    local surplus = level - capacity
    if surplus > over or now - over_until > KEEP then
        over, over_from, over_until = math.max(0, surplus), had_time, now
    end
    level = math.min(capacity, level)
    if recalls then
        local most = seen_level + rate * math.max(0, since)
        most = most + math.max(0, credited - seen_credited)
        level = math.min(level, most)
    end
end
if level >= capacity then full = now end
if ask_spent > 0 then
    local spent, excess = ask_spent, ask_excess
    if 0 < born and born <= now and span > 0 then
        local part = math.min(1, (now - born) / span)
        spent, excess = spent * part, excess * part
    end
    local common = math.max(0, math.min(now, over_until) - math.max(now - span, over_from))
    local forgiven = math.min(over, excess, rate * common)
    over = over - forgiven
    level = level - (spent - forgiven)
end
local paid = deposit
if credit > 0 and full <= issued then paid = paid + credit end
if reset == 1 then
    paid = paid + 2 * capacity + math.abs(level)
    full = now
end
if paid > 0 then
    credited = credited + paid
    level = math.min(capacity, level + paid)
end
level = math.min(level, ceiling)
local granted = 0
if want > 0 then
    local there = level + capacity * ROUNDING
    if there >= want then
        granted = want
    elseif there >= least then
        granted = math.floor(there / least) * least
    end
    level = level - granted
end
redis.call('HSET', key, 'level', text(level), 'time', text(now), 'full', text(full),
    'born', text(born), 'credited', text(credited), 'over', text(over),
    'over_from', text(over_from), 'over_until', text(over_until),
    'rate', text(rate), 'capacity', text(capacity), 'agreed', text(agreed),
    'order_number', text(order[1]), 'order_rate', text(order[2]),
    'order_per', text(order[3]), 'order_burst', text(order[4]))
redis.call('PEXPIRE', key, string.format('%.0f',
    math.ceil(1000 * ((capacity - level) / rate + KEEP))))
return {text(granted), text(level), text(now), text(credited), text(rate),
    text(capacity), lost and '1' or '0', text(order[1]), text(order[2]),
    text(order[3]), text(order[4])}
