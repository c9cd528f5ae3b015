-- Programme: who may send, which cards there are, and under which keys. Changed by the owner's role.

create table installation (
    only_row boolean primary key default true check (only_row),
    epoch uuid not null default gen_random_uuid()   -- part of every cache key: a new one forgets all
);
insert into installation default values;

create table programme (
    programme_id int primary key,
    name text not null,
    currency char(3) not null check (currency ~ '^[0-9]{3}$')
);

create table merchant (
    merchant_id int primary key,
    code char(15) not null unique,              -- DE 42
    name text not null,
    open boolean not null default true
);

create table acquirer_link (
    name text primary key,
    acquirer_id text not null check (acquirer_id ~ '^[0-9]{1,11}$'),            -- DE 32
    foreign_acquirer_ids text[] not null default '{}',
    packager text not null,
    header text not null default 'binary2',
    sign_on boolean not null
);

create table terminal (
    terminal_id int primary key,
    code char(8) not null unique,               -- DE 41
    merchant_id int not null references merchant,
    link text not null references acquirer_link (name),
    network boolean not null default false,     -- stands behind a network, not at a till
    mac_algorithm text not null check (mac_algorithm in ('aes-cmac', 'retail-mac')),
    pin_format smallint not null check (pin_format in (0, 4)),
    key_version smallint not null default 1 check (key_version between 1 and 99),
    floor_limit_minor bigint not null default 0,
    utc_offset_min smallint not null default 0 check (utc_offset_min between -840 and 840),
    may_return_unlinked boolean not null default false,
    completion_tolerance_percent smallint not null default 0
        check (completion_tolerance_percent between 0 and 100),
    enabled boolean not null default true
);

-- Keys stand here only as key blocks under the master key (ANSI X9.143).
create table terminal_key (
    terminal_id int not null references terminal,
    usage text not null check (usage in ('mac', 'pin', 'kek')),
    version smallint not null,
    block text not null,
    primary key (terminal_id, usage, version)
);

create table programme_key (
    usage text primary key check (usage in ('pvv', 'code', 'token')),
    block text not null
);

-- A card's facts. Its number stands nowhere: `digest` is the keyed digest of it.
create table card (
    card_id bigint primary key,
    digest bytea not null unique check (octet_length(digest) = 12),
    programme_id int not null references programme,
    expiry char(4) not null,                    -- YYMM
    pvv bytea not null default '',
    code_digest bytea not null default '',
    face_value_minor bigint not null default 0 check (face_value_minor >= 0)
);

-- A card's row: the fence of every batch. `state` is the same state, with lots and tries.
create table card_state (
    card_id bigint primary key references card,
    version int not null check (version >= 0),
    batch_id bigint not null,
    status smallint not null,
    ecash_available bigint not null check (ecash_available >= 0),
    ecash_held bigint not null check (ecash_held >= 0),
    voucher_available bigint not null check (voucher_available >= 0),
    voucher_held bigint not null check (voucher_held >= 0),
    points_available bigint not null check (points_available >= 0),
    points_held bigint not null check (points_held >= 0),
    state bytea not null,
    request_window bytea not null
) with (fillfactor = 50);

-- The journal. Links and postings are only ever added, by month; old months are detached whole.
create table link (
    month date not null,
    batch_id bigint not null,
    n smallint not null,
    card_id bigint not null,
    version int not null check (version > 0),
    prev_batch_id bigint not null,
    request_key bytea not null,
    operation smallint not null,
    response smallint not null,
    tx char(12) not null,
    purse smallint not null,
    amount_minor bigint not null,               -- signed effect on the purse's available amount
    available_after bigint not null check (available_after >= 0),
    held_after bigint not null check (held_after >= 0),
    undoes int not null default 0,
    terminal_id int not null,
    merchant_id int not null,
    batch_number text not null default '',      -- BN as it was sent, '' where none was
    counts smallint not null default 0,         -- in a reconciliation: see rules/settlement.py
    counted_minor bigint not null default 0 check (counted_minor >= 0),
    posted_at timestamptz not null,
    xid xid8 not null default pg_current_xact_id(),     -- readers follow the order of commits by it
    body bytea not null,
    primary key (month, batch_id, n, card_id)
) partition by range (month);
create index link_card on link (card_id, version);
create index link_key on link (request_key);
create index link_undoes on link (card_id) where undoes > 0;
-- What a terminal has done since its last batch was closed, and what it did last. The links of one
-- batch have one xid: entries of a terminal are equal within it, which deduplication keeps small.
create index link_terminal on link (terminal_id, xid);

create table posting (
    month date not null,
    batch_id bigint not null,
    n smallint not null,
    leg smallint not null,
    card_id bigint not null,
    debit_kind smallint not null,
    debit_id bigint not null,
    credit_kind smallint not null,
    credit_id bigint not null,
    amount_minor bigint not null check (amount_minor > 0),
    purse smallint not null,
    currency char(3) not null
) partition by range (month);

-- What reached no card: unknown numbers, wrong MACs, bad formats. Never part of a chain.
create table refusal (
    month date not null,
    batch_id bigint not null,
    n smallint not null,
    posted_at timestamptz not null,
    link text not null,
    mti char(4) not null,
    response smallint not null,
    rule text not null,
    terminal text not null,
    stan text not null,
    card_digest bytea not null,
    primary key (month, batch_id, n)
) partition by range (month);

create function ensure_months(ahead int) returns void language plpgsql as $$
declare
    first date := date_trunc('month', now() at time zone 'utc')::date;
    lower_bound date;
    parent text;
begin
    for i in -1 .. ahead loop
        lower_bound := first + make_interval(months => i);
        foreach parent in array array['link', 'posting', 'refusal'] loop
            execute format(
                'create table if not exists %I partition of %I for values from (%L) to (%L)',
                parent || to_char(lower_bound, '_YYYY_MM'), parent,
                lower_bound, (lower_bound + interval '1 month')::date);
        end loop;
    end loop;
end $$;

create function months_ahead() returns int language sql stable as $$
    select count(*)::int
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'link'::regclass
      and c.relname > to_char(now() at time zone 'utc', '"link_"YYYY_MM')
$$;

-- Written when the outcome of a commit was in doubt: once this is durable, so is all before it.
create table barrier (run bigint primary key, written_at timestamptz not null);

create sequence run_number maxvalue 8388607;   -- 23 bits in front of every batch and transaction id

select ensure_months(24);
