-- How keys end: the window stands with the key, versions are removed after it, the owner can issue anew.

-- Order in which keys were handed out, which no clock can turn round. `window_s` is written at the first
-- use: for how long the key before this one is taken after it. `issued_at` tells a key's age.
alter table key_change add column place bigint generated always as identity;
alter table key_change add column window_s int not null default 0 check (window_s >= 0);
-- Further requests that were given this key while it was pending: their repeats get it, too. The last 64.
alter table key_change add column also_asked bytea[] not null default '{}';
alter table terminal_key add column issued_at timestamptz not null default now();
drop index key_change_order;
create unique index key_change_order on key_change (terminal_id, usage, place);

-- A link that is switched off is listened to, and its terminals are told 58.
alter table acquirer_link add column enabled boolean not null default true;

-- A terminal is disabled, never deleted: running workers would not learn of it, and links name it.
create function refuse_delete_of_terminal() returns trigger language plpgsql as $$
begin
    raise exception 'a terminal is not deleted: set enabled to false';
end $$;
create trigger terminal_not_deleted before delete on terminal
    for each row execute function refuse_delete_of_terminal();

-- A key that the owner issues ends all that were handed out over the line before it, at once; a new KEK,
-- or another algorithm, what was sent for the old one and is of no use any more.
create or replace function note_terminal_change() returns trigger language plpgsql as $$
begin
    new.changed_xid := pg_current_xact_id();
    if (new.key_version, new.mac_algorithm) is distinct from (old.key_version, old.mac_algorithm) then
        delete from key_change where terminal_id = new.terminal_id and usage = 'mac';
    end if;
    if new.pin_format is distinct from old.pin_format then
        delete from key_change where terminal_id = new.terminal_id and usage = 'pin';
    end if;
    return new;
end $$;

create function note_issued_key() returns trigger language plpgsql as $$
begin
    if tg_op <> 'DELETE' and (new.usage = 'pin' or new.usage = 'mac' and new.version =
            (select t.key_version from terminal t where t.terminal_id = new.terminal_id)) then
        delete from key_change where terminal_id = new.terminal_id and usage = new.usage;
    elsif tg_op <> 'DELETE' and new.usage = 'kek' then
        delete from key_change where terminal_id = new.terminal_id and activated_at is null;
    end if;
    update terminal set changed_xid = pg_current_xact_id()
        where terminal_id = coalesce(new.terminal_id, old.terminal_id);
    return null;
end $$;
drop trigger terminal_key_changed on terminal_key;
create trigger terminal_key_changed after insert or update or delete on terminal_key
    for each row execute function note_issued_key();

-- As before, but a repeat gets the key that it was given first, also when there is a newer one; `noted`
-- says whether this request is known to have been given it.
drop function hand_out_key(int, text, smallint, bytea, text, text, text);
drop function key_change_due(int, text, bytea);
create function key_change_due(p_terminal int, p_usage text, p_request_key bytea,
    out version smallint, out sent text, out check_value text, out noted boolean)
language sql stable as $$
    with changes as (
        select c.*, c.request_key = p_request_key or p_request_key = any(c.also_asked) as own
        from key_change c where c.terminal_id = p_terminal and c.usage = p_usage),
    newest as (select c.version from changes c order by c.place desc limit 1),
    due as (
        select c.version, c.sent, c.check_value, c.own from changes c
        where c.own or c.activated_at is null order by c.own desc, c.place desc limit 1),
    issued as (
        select case p_usage when 'mac' then t.key_version
               else (select max(k.version) from terminal_key k
                     where k.terminal_id = p_terminal and k.usage = p_usage) end as version
        from terminal t where t.terminal_id = p_terminal)
    select coalesce(d.version, coalesce(n.version, i.version, 0) % 99 + 1)::smallint,
           d.sent, d.check_value, coalesce(d.own, false)
    from issued i left join newest n on true left join due d on true
$$;

-- Keeps a new key before it is sent, or notes that a request is given the one that is pending. Returns
-- what the request is to be sent; nothing in `sent` where another one took the version.
create function hand_out_key(p_terminal int, p_usage text, p_version smallint, p_request_key bytea,
    p_block text, p_sent text, p_check text,
    out version smallint, out sent text, out check_value text, out noted boolean)
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    perform pg_advisory_xact_lock(1801812319, p_terminal);
    update key_change c
        set also_asked = also_asked[greatest(1, cardinality(also_asked) - 62):] || p_request_key
        where c.terminal_id = p_terminal and c.usage = p_usage and c.activated_at is null
          and not exists (
            select from key_change o where o.terminal_id = p_terminal and o.usage = p_usage
              and (o.request_key = p_request_key or p_request_key = any(o.also_asked)));
    select d.version, d.sent, d.check_value, d.noted into version, sent, check_value, noted
        from key_change_due(p_terminal, p_usage, p_request_key) d;
    if sent is null and version = p_version and p_block <> '' then
        insert into key_change (terminal_id, usage, version, request_key, block, sent, check_value)
            values (p_terminal, p_usage, p_version, p_request_key, p_block, p_sent, p_check);
        update terminal set changed_xid = pg_current_xact_id() where terminal_id = p_terminal;
        sent := p_sent;
        check_value := p_check;
        noted := true;
    end if;
end $$;

-- The pending key has been used: it is the current one from now on, and the one before it is taken for
-- p_window_s seconds more. By this clock, for all workers alike.
drop function activate_key(int, text, smallint);
create function activate_key(p_terminal int, p_usage text, p_version smallint, p_window_s int)
returns boolean language plpgsql security definer set search_path = public, pg_temp as $$
begin
    perform pg_advisory_xact_lock(1801812319, p_terminal);
    update key_change c set activated_at = clock_timestamp(), window_s = p_window_s
        where c.terminal_id = p_terminal and c.usage = p_usage and c.version = p_version
          and c.activated_at is null;
    if not found then
        return false;
    end if;
    update terminal set changed_xid = pg_current_xact_id() where terminal_id = p_terminal;
    return true;
end $$;

-- Removes keys that no worker takes any more: a later one is in force and its window is over. Returns how
-- many. The program's role may call this; which keys go is not its choice, and it can delete none itself.
create function retire_keys() returns int
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    handed_out int;
    issued int;
begin
    with gone as (
        delete from key_change c where c.activated_at is not null and exists (
            select from key_change s
            where s.terminal_id = c.terminal_id and s.usage = c.usage and s.place > c.place
              and s.activated_at + make_interval(secs => s.window_s) < now())
        returning c.terminal_id),
    noted as (
        update terminal t set changed_xid = pg_current_xact_id()
        from (select distinct g.terminal_id from gone g) g where t.terminal_id = g.terminal_id)
    select count(*) into handed_out from gone;
    delete from terminal_key k using terminal t
        where t.terminal_id = k.terminal_id
          and (k.usage = 'pin' or k.usage = 'mac' and k.version = t.key_version)
          and exists (
            select from key_change s where s.terminal_id = k.terminal_id and s.usage = k.usage
              and s.activated_at + make_interval(secs => s.window_s) < now());
    get diagnostics issued = row_count;
    return handed_out + issued;
end $$;

revoke all on function hand_out_key(int, text, smallint, bytea, text, text, text) from public;
revoke all on function activate_key(int, text, smallint, int) from public;
revoke all on function retire_keys() from public;
grant execute on function hand_out_key(int, text, smallint, bytea, text, text, text) to cardswitch_app;
grant execute on function activate_key(int, text, smallint, int) to cardswitch_app;
grant execute on function retire_keys() to cardswitch_app;
