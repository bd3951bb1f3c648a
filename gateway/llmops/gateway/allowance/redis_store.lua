-- The shared store of several machines: what sqlite_store.py does in SQL, atomically per exchange. See exchange.py for what
-- is guaranteed. Keys, all below one hash tag (KEYS[1], so that a cluster keeps them in one slot):
--   a:ID   hash  one account: kind, ceiling, start, end, spent, mark, mark_until; base, base_run (see declare)
--   l:ID   hash  holder -> "serial slot seq amount granted debt acked"
--   m:ID   hash  rate: last moment of use -> amount
--   h:NAME set   accounts that a holder holds
--   accounts, holders (-> last heard), machines (-> last heard), clock, swept
--   run          the life of the data: run id of the server and a word of whoever began it; absent: nothing may be trusted
--   opening      the same of the life that begins once all machines have told; told:RUN: those that have
-- ARGV: operation, run, clock of a simulation or '', and the operation's own. Amounts stay below 2^53.
local base, op, run = KEYS[1], ARGV[1], ARGV[2]
local WINDOW, USE, STEP, MARK, DAY = 60000, 1000, 500, 1500, 86400000
local STATUS = {ok = 0, short = 1, refused = 2, period = 3, lost = 4}

local function int(x) return string.format('%.0f', x) end
local function num(x) return tonumber(x or '0') or 0 end

local function clock()
  local now
  if ARGV[3] ~= '' then
    now = tonumber(ARGV[3])
  else
    local t = redis.call('TIME')
    now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
  end
  return math.max(now, num(redis.call('GET', base .. 'clock')))  -- it never runs backwards
end

local function parse(text)
  if not text then return nil end
  local row, at = {}, 0
  local names = {'serial', 'slot', 'seq', 'amount', 'granted', 'debt', 'acked'}
  for word in string.gmatch(text, '%S+') do at = at + 1; row[names[at]] = tonumber(word) end
  return row
end

local function put(id, holder, row)
  redis.call('HSET', base .. 'l:' .. id, holder, table.concat({int(row.serial), int(row.slot), int(row.seq),
    int(row.amount), int(row.granted), int(row.debt), int(row.acked)}, ' '))
  redis.call('SADD', base .. 'h:' .. holder, id)
end

local function drop(id, holder)
  redis.call('HDEL', base .. 'l:' .. id, holder)
  redis.call('SREM', base .. 'h:' .. holder, id)
end

local function rows(id)
  local found, flat = {}, redis.call('HGETALL', base .. 'l:' .. id)
  for i = 1, #flat, 2 do found[flat[i]] = parse(flat[i + 1]) end
  return found
end

-- Rates and slots of a holder go back; budgets stay leased until its journal is settled.
local function silence(holder)
  for _, id in ipairs(redis.call('SMEMBERS', base .. 'h:' .. holder)) do
    if redis.call('HGET', base .. 'a:' .. id, 'kind') ~= 'usd' then drop(id, holder) end
  end
  redis.call('HDEL', base .. 'holders', holder)
end

local function hear(holder, now, lease_ms)
  redis.call('SET', base .. 'clock', int(now))
  redis.call('HSET', base .. 'holders', holder, int(now))
  redis.call('HSET', base .. 'machines', string.match(holder, '^[^-]*'), int(now))
  if num(redis.call('GET', base .. 'swept')) + 1000 > now then return end
  redis.call('SET', base .. 'swept', int(now))
  local flat = redis.call('HGETALL', base .. 'holders')
  for i = 1, #flat, 2 do
    if num(flat[i + 1]) < now - lease_ms then silence(flat[i]) end
  end
end

-- exchange.grant_of
local function grant_of(ask, available, holders, recalled)
  available = math.max(available, 0)
  local ahead = 0
  if not recalled then ahead = math.min(ask.want, math.floor(math.max(available - ask.need, 0) / (2 * holders))) end
  if ask.need > 0 and available < ask.need then
    if available >= ask.least then return available else return 0 end
  end
  return ask.need + ahead
end

local function others(id, holder)
  local leased, holders = 0, 1
  for name, row in pairs(rows(id)) do
    if name ~= holder then leased = leased + row.amount; holders = holders + 1 end
  end
  return leased, holders
end

local function decide(answer, ask, holder, state, available, holders, now)
  answer.grant = grant_of(ask, available, holders, state.mark_until > now)
  if ask.need == 0 or answer.grant > 0 then return end
  local held, silent, since = 0, 0, ask.mark > 0 and ask.mark or state.mark + 1
  for name, row in pairs(rows(ask.id)) do
    if name ~= holder and row.amount > 0 then
      held = held + 1
      if row.acked < since then silent = silent + 1 end
    end
  end
  if held == 0 or (ask.mark > 0 and silent == 0) then
    answer.status = STATUS.refused
    return
  end
  answer.status = STATUS.short
  if ask.mark == 0 then state.mark = state.mark + 1 end
  answer.mark = ask.mark > 0 and ask.mark or state.mark
  redis.call('HSET', base .. 'a:' .. ask.id, 'mark', int(state.mark), 'mark_until', int(now + MARK))
end

local function book_lease(answer, ask, holder, state, now)
  local row = parse(redis.call('HGET', base .. 'l:' .. ask.id, holder))
  if not row then
    if ask.seq > 1 then answer.status = ask.close and STATUS.ok or STATUS.lost; return end
    row = {serial = ask.serial, slot = ask.slot, seq = 0, amount = 0, granted = 0, debt = 0, acked = 0}
  end
  answer.spent = state.spent
  if row.serial == ask.serial and row.seq == ask.seq then  -- told again: booked already
    answer.grant, answer.amount = row.granted, row.amount
    return
  end
  if row.serial ~= ask.serial or row.seq ~= ask.seq - 1 then answer.status = STATUS.lost; return end
  if ask.kind == 'usd' then
    state.spent = state.spent + ask.used + ask.debt - row.debt
    redis.call('HSET', base .. 'a:' .. ask.id, 'spent', int(state.spent))
  end
  answer.spent = state.spent
  row.amount = row.amount - ask.used - ask.returned
  if ask.emptied then row.acked = state.mark end
  if ask.close and row.amount == 0 then drop(ask.id, holder); return end
  local leased, holders = others(ask.id, holder)
  if ask.kind == 'usd' and not (ask.start <= now and now < ask['end']) then
    answer.status = STATUS.period
  else
    decide(answer, ask, holder, state, ask.ceiling - state.spent - leased - row.amount, holders, now)
    if answer.status == STATUS.refused then
      answer.retry = (ask.kind == 'slots' or ask.ceiling - state.spent >= ask.least) and 1000 or -1
    end
  end
  row.amount, row.granted, row.debt, row.seq = row.amount + answer.grant, answer.grant, ask.debt, ask.seq
  answer.leased, answer.amount = leased + row.amount, row.amount
  put(ask.id, holder, row)
end

local function book_rate(answer, ask, holder, state, now)
  local key = base .. 'm:' .. ask.id
  for i = 1, #ask.refunds, 2 do
    local last = int(ask.refunds[i])
    local amount = redis.call('HGET', key, last)
    if amount then redis.call('HSET', key, last, int(math.max(num(amount) - ask.refunds[i + 1], 0))) end
  end
  local counted, moments, flat = 0, {}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    local last, amount = num(flat[i]), num(flat[i + 1])
    if last <= now - WINDOW then
      redis.call('HDEL', key, flat[i])
    else
      counted = counted + amount
      moments[#moments + 1] = {last, amount}
    end
  end
  local leased, holders = others(ask.id, holder)
  answer.spent = counted
  decide(answer, ask, holder, state, ask.ceiling - counted, holders, now)
  if answer.grant > 0 then
    local use = 2 * (counted + answer.grant) > ask.ceiling and USE or 5 * USE
    answer.till = math.ceil((now + use) / STEP) * STEP
    redis.call('HSET', key, int(answer.till), int(num(redis.call('HGET', key, int(answer.till))) + answer.grant))
  end
  if answer.status == STATUS.refused then
    local lacking = counted - ask.ceiling + ask.least
    answer.retry = 1000
    table.sort(moments, function(a, b) return a[1] < b[1] end)
    for _, moment in ipairs(moments) do
      lacking = lacking - moment[2]
      if lacking <= 0 then answer.retry = moment[1] + WINDOW - now; break end
    end
  end
  local held = ask.kept + answer.grant
  answer.leased = leased + held
  if ask.close and held == 0 then
    drop(ask.id, holder)
  else
    local acked = ask.emptied and state.mark or 0
    put(ask.id, holder, {serial = 0, slot = 0, seq = 0, amount = held, granted = 0, debt = 0, acked = acked})
  end
  redis.call('PEXPIRE', key, 10 * WINDOW)
end

local function account(ask)
  local key = base .. 'a:' .. ask.id
  local found = redis.call('HMGET', key, 'spent', 'mark', 'mark_until', 'ceiling')
  if num(found[4]) ~= ask.ceiling then
    redis.call('HSET', key, 'kind', ask.kind, 'ceiling', int(ask.ceiling), 'start', int(ask.start),
      'end', int(ask['end']))
    redis.call('SADD', base .. 'accounts', ask.id)
    if ask.kind == 'usd' and ask.start > 0 then redis.call('PEXPIREAT', key, int(ask['end'] + 400 * DAY)) end
  end
  if ask.kind ~= 'usd' then redis.call('PEXPIRE', key, DAY) end
  return {spent = num(found[1]), mark = num(found[2]), mark_until = num(found[3])}
end

local function exchange()
  local holder, now = ARGV[4], clock()
  hear(holder, now, tonumber(ARGV[5]))
  local told = {now, run, redis.call('HLEN', base .. 'machines')}
  for _, ask in ipairs(cjson.decode(ARGV[6])) do
    local answer = {status = STATUS.ok, grant = 0, till = 0, spent = 0, leased = 0, mark = 0, retry = -1, amount = 0}
    local book = ask.kind == 'rate' and book_rate or book_lease
    book(answer, ask, holder, account(ask), now)
    told[#told + 1] = {answer.status, answer.grant, answer.till, answer.spent, answer.leased, answer.mark,
      answer.retry, answer.amount}
  end
  return told
end

local function recalls()
  local holder, now, found = ARGV[4], clock(), {}
  for _, id in ipairs(redis.call('SMEMBERS', base .. 'h:' .. holder)) do
    local state = redis.call('HMGET', base .. 'a:' .. id, 'mark', 'mark_until')
    if num(state[2]) > now then
      local row = parse(redis.call('HGET', base .. 'l:' .. id, holder))
      if row and row.amount > 0 and row.acked < num(state[1]) then found[#found + 1] = id end
    end
  end
  return found
end

local function leases()
  local found = {}
  for _, id in ipairs(redis.call('SMEMBERS', base .. 'h:' .. ARGV[4])) do
    local kind = redis.call('HGET', base .. 'a:' .. id, 'kind')
    local row = parse(redis.call('HGET', base .. 'l:' .. id, ARGV[4]))
    if row and kind ~= 'rate' then
      found[#found + 1] = {id, kind, row.serial, row.slot, row.seq, row.amount, row.granted, row.debt}
    end
  end
  return found
end

local function bury()
  local holder = ARGV[4]
  for _, burial in ipairs(cjson.decode(ARGV[5])) do
    local row = parse(redis.call('HGET', base .. 'l:' .. burial.account, holder))
    if row and row.serial == burial.serial then
      local key = base .. 'a:' .. burial.account
      redis.call('HSET', key, 'spent', int(num(redis.call('HGET', key, 'spent')) + row.amount - burial.free + burial.debt))
      drop(burial.account, holder)
    end
  end
  silence(holder)
  return 1
end

local function usage()
  local now, found = clock(), {}
  for _, id in ipairs(redis.call('SMEMBERS', base .. 'accounts')) do
    local state = redis.call('HMGET', base .. 'a:' .. id, 'kind', 'start', 'spent', 'ceiling')
    if not state[1] then
      redis.call('SREM', base .. 'accounts', id)
    else
      local leased, holders = others(id, '')
      local counted, flat = 0, redis.call('HGETALL', base .. 'm:' .. id)
      for i = 1, #flat, 2 do
        if num(flat[i]) > now - WINDOW then counted = counted + num(flat[i + 1]) end
      end
      local spent = state[1] == 'rate' and math.max(counted - leased, 0) or num(state[3])
      found[#found + 1] = {id, state[1], num(state[2]), spent, leased, num(state[4]), holders - 1}
    end
  end
  return found
end

-- The life that runs, if it is of this process of the server, else the one that is to begin. ARGV: run id, a new word.
local function begin()
  local server = ARGV[2] .. ' '
  for _, name in ipairs({'run', 'opening'}) do
    local found = redis.call('GET', base .. name)
    if found and string.sub(found, 1, #server) == server then return found end
  end
  local new = server .. ARGV[4]
  redis.call('DEL', base .. 'run')
  redis.call('SET', base .. 'opening', new)
  return new
end

-- After a start of the server each machine tells what it knows, before anything is granted: the server may have lost it.
-- An account's spend is the most that anybody knows of it, and what was booked since. ARGV: machine, what it knows, forgive.
-- Gives the machines still waited for.
local function declare()
  if redis.call('GET', base .. 'run') ~= run and redis.call('GET', base .. 'opening') ~= run then
    return redis.error_reply('STALE another life has begun')
  end
  local machine, now, known = ARGV[4], clock(), cjson.decode(ARGV[5])
  for _, a in ipairs(known.accounts) do
    local key = base .. 'a:' .. a.id
    local state = redis.call('HMGET', key, 'spent', 'base', 'base_run')
    local spent = num(state[1])
    local before = state[3] == run and num(state[2]) or spent
    if a.spent > before then spent = spent + a.spent - before; before = a.spent end
    redis.call('HSET', key, 'kind', a.kind, 'ceiling', int(a.ceiling), 'start', int(a.start), 'end', int(a['end']),
      'spent', int(spent), 'base', int(before), 'base_run', run)
    redis.call('SADD', base .. 'accounts', a.id)
  end
  for _, l in ipairs(known.leases) do
    local row = parse(redis.call('HGET', base .. 'l:' .. l.account, l.holder))
    if not row or row.serial ~= l.serial or row.seq < l.seq then
      l.acked = 0
      put(l.account, l.holder, l)
    end
    redis.call('HSET', base .. 'holders', l.holder, int(now))
  end
  for _, name in ipairs(known.machines) do redis.call('HSETNX', base .. 'machines', name, int(now)) end
  redis.call('HSET', base .. 'machines', machine, int(now))
  redis.call('SADD', base .. 'told:' .. run, machine)
  redis.call('PEXPIRE', base .. 'told:' .. run, DAY)
  local missing, flat = {}, redis.call('HGETALL', base .. 'machines')
  for i = 1, #flat, 2 do
    if redis.call('SISMEMBER', base .. 'told:' .. run, flat[i]) == 0 then
      if ARGV[6] == '1' or num(flat[i + 1]) < now - DAY then
        redis.call('HDEL', base .. 'machines', flat[i])
      else
        missing[#missing + 1] = flat[i]
      end
    end
  end
  if #missing == 0 then
    redis.call('SET', base .. 'run', run)
    redis.call('DEL', base .. 'opening')
  end
  return missing
end

if op == 'begin' then return begin() end
if op == 'declare' then return declare() end
if redis.call('GET', base .. 'run') ~= run then return redis.error_reply('STALE another life of the data') end
if op == 'exchange' then return exchange() end
if op == 'recalls' then return recalls() end
if op == 'leases' then return leases() end
if op == 'bury' then return bury() end
if op == 'usage' then return usage() end
if op == 'machines' then return redis.call('HKEYS', base .. 'machines') end
return redis.error_reply('ERR no such operation')
