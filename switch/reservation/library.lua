#!lua name=cardswitch1

-- Possession of cards: one batch of one worker has a card at a time, and finds its last state here.
-- Nothing depends on it for money: the card's row in Postgres judges. All keys carry one hash tag.
--
-- KEYS[1]  hash: card key -> "<13 digits: valid until, ms><holder>"
-- KEYS[2]  hash: card key -> "1" where somebody waits for the card
-- KEYS[3+] one string per card: its state as the workers sealed it (`exchange`: the settled ones first)

local FIRST = 3

local function now_ms()
    local now = redis.call('TIME')
    return tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
end

local function card_keys(keys)
    return {unpack(keys, FIRST)}
end

-- ARGV[1] holder, ARGV[2] how long a mark is respected (ms).
-- Output: per card 0 = another has it; 1 = yours, no state known; a string = yours, with its state.
local function reserve(keys, args)
    local cards = card_keys(keys)
    local holder, now = args[1], now_ms()
    local marks = redis.call('HMGET', keys[1], unpack(cards))
    local granted, taken, waits, answer = {}, {}, {}, {}
    local mark = string.format('%013.0f', now + tonumber(args[2])) .. holder
    for i = 1, #cards do
        local held = marks[i]
        if held and string.sub(held, 14) ~= holder and tonumber(string.sub(held, 1, 13)) > now then
            answer[i] = 0
            waits[#waits + 1] = cards[i]
            waits[#waits + 1] = '1'
        else
            granted[#granted + 1] = i
            taken[#taken + 1] = cards[i]
            taken[#taken + 1] = mark
        end
    end
    if #waits > 0 then
        redis.call('HSET', keys[2], unpack(waits))
    end
    if #granted > 0 then
        redis.call('HSET', keys[1], unpack(taken))
        local wanted = {}
        for i, at in ipairs(granted) do wanted[i] = cards[at] end
        local states = redis.call('MGET', unpack(wanted))
        for i, at in ipairs(granted) do answer[at] = states[i] or 1 end
    end
    return answer
end

-- The cards of the list that this holder still has.
local function own(keys, holder)
    local cards = card_keys(keys)
    local marks = redis.call('HMGET', keys[1], unpack(cards))
    local mine = {}
    for i = 1, #cards do
        if marks[i] and string.sub(marks[i], 14) == holder then mine[#mine + 1] = i end
    end
    return cards, mine
end

local function give_up(keys, cards, mine)
    local names = {}
    for i, at in ipairs(mine) do names[i] = cards[at] end
    redis.call('HDEL', keys[1], unpack(names))
    if redis.call('EXISTS', keys[2]) == 1 then
        local waits = redis.call('HMGET', keys[2], unpack(names))
        local free = {}
        for i = 1, #names do
            if waits[i] then free[#free + 1] = names[i] end
        end
        if #free > 0 then
            redis.call('HDEL', keys[2], unpack(free))
            redis.call('PUBLISH', keys[1], table.concat(free, ' '))
        end
    end
end

-- ARGV[1] holder, ARGV[2+] one state per card, committed. Output: how many were still this holder's.
local function settle(keys, args)
    local cards, mine = own(keys, args[1])
    if #mine == 0 then return 0 end
    local states = {}
    for _, at in ipairs(mine) do
        states[#states + 1] = cards[at]
        states[#states + 1] = args[at + 1]
    end
    redis.call('MSET', unpack(states))
    give_up(keys, cards, mine)
    return #mine
end

-- ARGV[1] holder, ARGV[2] '1' to forget the states too. Output: how many were this holder's.
local function release(keys, args)
    local cards, mine = own(keys, args[1])
    if args[2] == '1' then redis.call('DEL', unpack(cards)) end
    if #mine > 0 then give_up(keys, cards, mine) end
    return #mine
end

-- ARGV[1] holder, ARGV[2] as for reserve, ARGV[3] how many cards of the list are settled, ARGV[4+]
-- their states; the other cards are reserved after that. Output: as reserve's, for these. 0 also for
-- a card that was settled here and that somebody waits for: or else who has it would keep it for ever.
local function exchange(keys, args)
    local count = tonumber(args[3])
    local back, states, waited = {keys[1], keys[2]}, {args[1]}, {}
    for i = 1, count do
        back[i + 2] = keys[i + 2]
        states[i + 1] = args[i + 3]
    end
    if redis.call('EXISTS', keys[2]) == 1 then
        local waits = redis.call('HMGET', keys[2], unpack(back, FIRST))
        for i = 1, count do
            if waits[i] then waited[back[i + 2]] = true end
        end
    end
    settle(back, states)
    local wanted, places, answer = {keys[1], keys[2]}, {}, {}
    for i = FIRST + count, #keys do
        local place = i - count - FIRST + 1
        if waited[keys[i]] then
            answer[place] = 0
        else
            wanted[#wanted + 1] = keys[i]
            places[#places + 1] = place
        end
    end
    if #places > 0 then
        local taken = reserve(wanted, args)
        for i, place in ipairs(places) do answer[place] = taken[i] end
    end
    return answer
end

redis.register_function('cardswitch1_reserve', reserve)
redis.register_function('cardswitch1_exchange', exchange)
redis.register_function('cardswitch1_settle', settle)
redis.register_function('cardswitch1_release', release)
