-- Projections: what is read from the journal in the order of its commits, and can be made anew from
-- it at any time. And the digests over the journal, which cannot: who has no key cannot make them.

-- The projector reads by the number of the transaction. Entries of one batch have one key and come
-- last in the index: B-tree deduplication keeps it at a few bytes per row.
create index link_xid on link (xid);
create index posting_batch on posting (batch_id);

-- How far the projections are: they are changed in the transaction that moves this on.
create table projection_position (
    only_row boolean primary key default true check (only_row),
    xid xid8 not null default '0',
    batch_id bigint not null default 0,
    n smallint not null default 0,
    links bigint not null default 0,
    postings bigint not null default 0,
    posted_at timestamptz not null default '-infinity'
);
insert into projection_position default values;

-- Accounts of merchants: what they are paid and owed, what they fell short of, what is in suspense.
create table merchant_balance (
    merchant_id bigint not null,
    account_kind smallint not null,
    purse smallint not null,
    currency char(3) not null,
    debits_minor bigint not null,
    credits_minor bigint not null,
    postings bigint not null,
    primary key (merchant_id, account_kind, purse, currency)
) with (fillfactor = 50);

-- Accounts of programmes: all cards together (kind 1), float, fees, promotions, breakage.
create table programme_balance (
    programme_id bigint not null,
    account_kind smallint not null,
    purse smallint not null,
    currency char(3) not null,
    debits_minor bigint not null,
    credits_minor bigint not null,
    postings bigint not null,
    primary key (programme_id, account_kind, purse, currency)
) with (fillfactor = 50);

-- What the cards' holders are owed, by the kind of lot and the day it expires (days since
-- 1970-01-01, 0: never).
create table liability (
    programme_id bigint not null,
    purse smallint not null,
    currency char(3) not null,
    origin smallint not null,
    cashable boolean not null,
    expires_day int not null,
    sponsor_id bigint not null,
    available_minor bigint not null,
    held_minor bigint not null,
    primary key (programme_id, purse, currency, origin, cashable, expires_day, sponsor_id)
) with (fillfactor = 50);

create table card_head (
    card_id bigint primary key,
    version int not null,
    status smallint not null,
    ecash_available bigint not null,
    ecash_held bigint not null,
    voucher_available bigint not null,
    voucher_held bigint not null,
    points_available bigint not null,
    points_held bigint not null,
    last_posted_at timestamptz not null
) with (fillfactor = 50);

create table open_hold (
    card_id bigint not null,
    version int not null,                       -- of the link that made it
    purse smallint not null,
    amount_minor bigint not null,
    expires_at timestamptz not null,
    merchant_id bigint not null,
    ended_by int,                               -- version of the link that ended it
    primary key (card_id, version)
);
create index open_hold_expiry on open_hold (expires_at) where ended_by is null;

-- What a person has to look at. `cleared_*` are not the projector's: a rebuild keeps them.
create table open_item (
    card_id bigint not null,
    version int not null,
    kind smallint not null,                     -- 1 late reversal, 2 suspense, 3 shortfall
    rule text not null,
    tx char(12) not null,
    operation smallint not null,
    merchant_id bigint not null,                -- whose account it is on
    terminal_id int not null,
    purse smallint not null,
    currency char(3) not null,
    amount_minor bigint not null,
    posted_at timestamptz not null,
    cleared_at timestamptz,
    cleared_note text not null default '',
    primary key (card_id, version, kind)
);
create index open_item_open on open_item (posted_at) where cleared_at is null;

create view card_statement as
select l.card_id, l.version, l.posted_at, l.tx, l.operation, l.response, l.purse, l.amount_minor,
       l.available_after, l.held_after, trim(m.code) as merchant, m.name as merchant_name,
       account_name(p.debit_kind, p.debit_id) as debit,
       account_name(p.credit_kind, p.credit_id) as credit,
       p.amount_minor as posted_minor, p.currency
from link l
left join merchant m on m.merchant_id = l.merchant_id
left join posting p
    on p.month = l.month and p.batch_id = l.batch_id and p.n = l.n and p.card_id = l.card_id;

-- How far behind the projections are; counts no further than 100,001.
create function projection_lag(out links bigint, out seconds double precision)
language sql stable as $$
    select count(*), coalesce(extract(epoch from now() - min(waiting.posted_at)), 0)
    from (
        select l.posted_at from link l, projection_position p
        where l.xid >= p.xid and (l.xid, l.batch_id, l.n) > (p.xid, p.batch_id, p.n)
        limit 100001) as waiting
$$;

-- One row per block of up to 1,000 links in the order of their commits. `digest` is over the digest
-- before it and all links and postings of the block, under a key that is not in this database;
-- `marks` has four bytes per link, by which a broken block tells which link it was.
create table journal_digest (
    block bigint primary key,
    xid xid8 not null,                          -- of its last link, as are batch_id and n
    batch_id bigint not null,
    n smallint not null,
    links int not null check (links > 0),
    postings int not null,
    marks bytea not null,
    digest bytea not null check (octet_length(digest) = 32),
    key_check bytea not null,
    made_at timestamptz not null default now()
);

grant select on projection_position, merchant_balance, programme_balance, liability, card_head,
    open_hold, open_item, card_statement, journal_digest to cardswitch_app;
grant update on projection_position to cardswitch_app;
grant insert, update on merchant_balance, programme_balance, liability, card_head, open_hold,
    open_item to cardswitch_app;
grant insert on journal_digest to cardswitch_app;
