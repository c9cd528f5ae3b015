-- Keys that were handed out over the line (0800, DE 70 = 101), and how running workers learn of changes.

-- `block` is the key under the master key; `sent` is what the terminal was sent, under its own KEK, so
-- that a repeat carries the same. A key that has never been used is pending; one per usage at most.
create table key_change (
    terminal_id int not null references terminal,
    usage text not null check (usage in ('mac', 'pin')),
    version smallint not null check (version between 1 and 99),
    request_key bytea not null,
    block text not null,
    sent text not null,
    check_value text not null,
    made_at timestamptz not null default now(),
    activated_at timestamptz
);
create unique index key_change_pending on key_change (terminal_id, usage) where activated_at is null;
create index key_change_order on key_change (terminal_id, usage, made_at);

-- A terminal's row says in which transaction anything of it was changed last: workers look for what is
-- newer than the oldest transaction that was running when they looked before.
alter table terminal add column changed_xid xid8 not null default pg_current_xact_id();
create index terminal_changed on terminal (changed_xid);

create function note_terminal_change() returns trigger language plpgsql as $$
begin
    new.changed_xid := pg_current_xact_id();
    return new;
end $$;
create trigger terminal_changed before update on terminal
    for each row execute function note_terminal_change();

create function note_change_of_its_terminal() returns trigger language plpgsql as $$
begin
    if tg_table_name = 'merchant' then
        update terminal set changed_xid = pg_current_xact_id() where merchant_id = new.merchant_id;
    else
        update terminal set changed_xid = pg_current_xact_id() where terminal_id = new.terminal_id;
    end if;
    return null;
end $$;
create trigger merchant_changed after update on merchant
    for each row execute function note_change_of_its_terminal();
create trigger terminal_key_changed after insert or update on terminal_key
    for each row execute function note_change_of_its_terminal();

-- What a key change would answer: the key that this very request, or an earlier one that is still
-- pending, was given; else the version that the next key is to have.
create function key_change_due(p_terminal int, p_usage text, p_request_key bytea,
    out version smallint, out sent text, out check_value text)
language sql stable as $$
    with newest as (
        select c.version, c.sent, c.check_value,
               c.request_key = p_request_key or c.activated_at is null as is_due
        from key_change c where c.terminal_id = p_terminal and c.usage = p_usage
        order by c.made_at desc, c.activated_at desc nulls first limit 1),
    issued as (
        select case p_usage when 'mac' then t.key_version
               else (select max(k.version) from terminal_key k
                     where k.terminal_id = p_terminal and k.usage = p_usage) end as version
        from terminal t where t.terminal_id = p_terminal)
    select case when n.is_due then n.version
           else coalesce(n.version, i.version, 0) % 99 + 1 end::smallint,
           case when n.is_due then n.sent end,
           case when n.is_due then n.check_value end
    from issued i left join newest n on true
$$;

-- Keeps a new key before it is sent; or returns what another request was given meanwhile. The program's
-- own role may do this and the next, and touch no other key.
create function hand_out_key(p_terminal int, p_usage text, p_version smallint, p_request_key bytea,
    p_block text, p_sent text, p_check text, out version smallint, out sent text, out check_value text)
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    perform pg_advisory_xact_lock(1801812319, p_terminal);
    select d.version, d.sent, d.check_value into version, sent, check_value
        from key_change_due(p_terminal, p_usage, p_request_key) d;
    if sent is null and version = p_version then
        insert into key_change (terminal_id, usage, version, request_key, block, sent, check_value)
            values (p_terminal, p_usage, p_version, p_request_key, p_block, p_sent, p_check);
        update terminal set changed_xid = pg_current_xact_id() where terminal_id = p_terminal;
        sent := p_sent;
        check_value := p_check;
    end if;
end $$;

-- The pending key has been used: it is the current one from now on.
create function activate_key(p_terminal int, p_usage text, p_version smallint) returns boolean
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    perform pg_advisory_xact_lock(1801812319, p_terminal);
    update key_change c set activated_at = now()
        where c.terminal_id = p_terminal and c.usage = p_usage and c.version = p_version
          and c.activated_at is null;
    if not found then
        return false;
    end if;
    update terminal set changed_xid = pg_current_xact_id() where terminal_id = p_terminal;
    return true;
end $$;

revoke all on function hand_out_key(int, text, smallint, bytea, text, text, text) from public;
revoke all on function activate_key(int, text, smallint) from public;
grant execute on function hand_out_key(int, text, smallint, bytea, text, text, text) to cardswitch_app;
grant execute on function activate_key(int, text, smallint) to cardswitch_app;
grant select on key_change to cardswitch_app;
