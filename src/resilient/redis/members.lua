-- Enlist a member, and count those seen in the last minute.
local KEEP = 60
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
redis.call('ZADD', KEYS[1], string.format('%.17g', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.17g', now - KEEP))
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('(%.17g', now + KEEP), '+inf')
redis.call('EXPIRE', KEYS[1], 2 * KEEP)
return redis.call('ZCARD', KEYS[1])
