-- One ask for a value and its answer; see resilient/_machines/shared_value.py, which
-- says what each step is for. NB: this is `serve` there, operation by operation.
local key, verb, id, given = KEYS[1], ARGV[1], ARGV[2], ARGV[7]
local fresh, right = tonumber(ARGV[3]), tonumber(ARGV[4])
local a_made, a_life = tonumber(ARGV[5]), tonumber(ARGV[6])
local now = tonumber(ARGV[8])
if not now then
    local clock = redis.call('TIME')
    now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
end
local function text(number) return string.format('%.17g', number) end

local had = redis.call('HMGET', key, 'content', 'made', 'end', 'holder', 'held')
local content, holder = had[1], had[4] or ''
local made, ends = tonumber(had[2] or '0'), tonumber(had[3] or '0')
local held = tonumber(had[5] or '0')
if content and not (made <= now and now < ends) then content = false end
if now >= held or (right > 0 and held > now + right) then holder = '' end
local age, granted, kept = -1, 0, false
if verb == 'look' then
    if content then age = now - made end
    local old = not content or age >= fresh
    if right > 0 and old and (holder == '' or holder == id) then
        granted, holder, held = 1, id, now + right
    end
else
    if holder == id then holder = '' end
    local till = a_made + a_life
    if verb == 'keep' then
        if a_made <= now and now < till and (not content or a_made >= made) then
            content, made, ends, kept = given, a_made, till, true
        end
    elseif verb == 'drop' then
        content = false
    end
end
local expires = 0
if kept then
    redis.call('HSET', key, 'content', content, 'made', text(made), 'end', text(ends))
elseif had[1] and not content then
    redis.call('HDEL', key, 'content', 'made', 'end')
end
if content then expires = ends end
if holder ~= '' then
    redis.call('HSET', key, 'holder', holder, 'held', text(held))
    expires = math.max(expires, held)
elseif had[4] then
    redis.call('HDEL', key, 'holder', 'held')
end
if kept or granted == 1 then
    redis.call('PEXPIRE', key, string.format('%.0f', math.ceil((expires - now) * 1000)))
end
local shown = ''
if verb == 'look' and content then shown = content end
return {shown, text(age), text(now), text(granted)}
