-- Reconciliation, closed batches, business dates. All of it is only ever added to.

-- What a 0500 or 0520 was answered, by its request key: its repeat hears it again. Totals in the
-- order of DE 74 to 77, then 86 to 89: what the terminal claimed, and what the switch answered.
create table reconciliation (
    request_key bytea primary key,
    fingerprint bytea not null,
    terminal_id int not null,
    currency char(3) not null,
    batch_number text not null,
    settlement_date text not null,              -- DE 15, as it was sent
    response smallint not null,                 -- 0, or 95
    tx char(12) not null,
    rrn text not null,
    claimed bigint[] not null check (cardinality(claimed) = 8),
    answered bigint[] not null check (cardinality(answered) = 8),
    posted_at timestamptz not null
);
create index reconciliation_terminal on reconciliation (terminal_id, posted_at);

-- A terminal's closed batches, one row of batches per currency. What belongs to a batch follows from
-- its snapshot and is written nowhere else: a link is in the first batch, in order of place, whose
-- snapshot sees the link's transaction, provided that the link carries no batch number, this batch's
-- own, or one that had been closed before. So no message ever waits for a close.
create table terminal_batch (
    terminal_id int not null,
    currency char(3) not null,
    place int not null check (place > 0),
    batch_number text not null,
    snapshot pg_snapshot not null,
    open_from xid8 not null,                    -- all that is below is in this batch or an earlier one
    request_key bytea not null,
    credits_number bigint not null,
    credit_reversals_number bigint not null,
    debits_number bigint not null,
    debit_reversals_number bigint not null,
    credits_minor bigint not null,
    credit_reversals_minor bigint not null,
    debits_minor bigint not null,
    debit_reversals_minor bigint not null,
    closed_at timestamptz not null,
    primary key (terminal_id, currency, place)
);
create index terminal_batch_number on terminal_batch (terminal_id, currency, batch_number);

-- Posted, and not in what the terminal uploaded before its batch was closed. For people.
create table missing_item (
    card_id bigint not null,
    version int not null,
    terminal_id int not null,
    currency char(3) not null,
    place int not null,
    counted_minor bigint not null,
    closed_at timestamptz not null,
    cleared_at timestamptz,
    cleared_note text not null default '',
    primary key (card_id, version)
);
create index missing_item_open on missing_item (closed_at) where cleared_at is null;

-- Store an answer, and close the batch where it is 00. 0: committed. 1: this request had been
-- answered before. 2: the terminal has closed another batch meanwhile, nothing was done.
create function append_reconciliation(
    p_key bytea, p_fingerprint bytea, p_terminal int, p_currency text, p_number text, p_date text,
    p_response smallint, p_tx text, p_rrn text, p_claimed bigint[], p_answered bigint[],
    p_posted_at timestamptz, p_place int, p_snapshot text, p_open_from text, p_totals bigint[],
    m_card bigint[], m_version int[], m_counted bigint[]
) returns int language plpgsql as $$
begin
    perform 1 from reconciliation where request_key = p_key;
    if found then
        return 1;
    end if;
    if p_response = 0 then
        insert into terminal_batch
        values (p_terminal, p_currency, p_place, p_number, p_snapshot::pg_snapshot,
                p_open_from::xid8, p_key, p_totals[1], p_totals[2], p_totals[3], p_totals[4],
                p_totals[5], p_totals[6], p_totals[7], p_totals[8], p_posted_at)
        on conflict (terminal_id, currency, place) do nothing;
        if not found then
            perform 1 from reconciliation where request_key = p_key;
            return case when found then 1 else 2 end;
        end if;
        insert into missing_item (card_id, version, terminal_id, currency, place, counted_minor,
                                  closed_at)
        select m.card_id, m.version, p_terminal, p_currency, p_place, m.counted, p_posted_at
        from unnest(m_card, m_version, m_counted) as m (card_id, version, counted);
    end if;
    insert into reconciliation
    values (p_key, p_fingerprint, p_terminal, p_currency, p_number, p_date, p_response, p_tx, p_rrn,
            p_claimed, p_answered, p_posted_at)
    on conflict (request_key) do nothing;
    if not found then
        -- Answered 95 by another worker between these statements: undo, and hear that answer.
        raise exception 'answered meanwhile' using errcode = '40001';
    end if;
    return 0;
end $$;

-- An acquirer link's business dates. Postings belong to the date that a cut-over ended when its
-- snapshot sees them, else to the one that it began.
create table cut_over (
    link text not null references acquirer_link (name),
    place int not null check (place > 0),
    business_date date not null,
    ended_date date not null check (ended_date < business_date),
    snapshot pg_snapshot not null default pg_current_snapshot(),
    request_key bytea not null,
    terminal_id int not null,
    posted_at timestamptz not null,
    primary key (link, place),
    unique (link, business_date)
);

-- 0: committed. 1: this date had been begun before. 2: another cut-over came between.
create function append_cut_over(
    p_link text, p_place int, p_date date, p_ended date, p_key bytea, p_terminal int,
    p_posted_at timestamptz
) returns int language plpgsql as $$
begin
    insert into cut_over (link, place, business_date, ended_date, request_key, terminal_id, posted_at)
    values (p_link, p_place, p_date, p_ended, p_key, p_terminal, p_posted_at)
    on conflict do nothing;
    if found then
        return 0;
    end if;
    perform 1 from cut_over where link = p_link and business_date = p_date;
    return case when found then 1 else 2 end;
end $$;

-- The business date of what was committed by this transaction on this link. Before a link's first
-- cut-over, and on a link that has none, days are those of UTC.
create function business_date(p_link text, p_xid xid8, p_posted_at timestamptz)
returns date language sql stable as $$
    with seen as (
        select place, ended_date from cut_over
        where link = p_link and pg_visible_in_snapshot(p_xid, snapshot) order by place limit 1)
    select coalesce(
        (select case place when 1 then least((p_posted_at at time zone 'utc')::date, ended_date)
                else ended_date end from seen),
        (select max(business_date) from cut_over where link = p_link),
        (p_posted_at at time zone 'utc')::date)
$$;

-- What counts in a reconciliation, each link with the batch it is in (null: not closed yet) and its
-- business date.
create view counted_link as
select l.card_id, l.version, l.tx, l.terminal_id, l.merchant_id, t.link, l.purse, l.counts,
       l.counted_minor, l.batch_number, l.posted_at,
       business_date(t.link, l.xid, l.posted_at) as business_date,
       (select min(b.place) from terminal_batch b
        where b.terminal_id = l.terminal_id and (b.currency = '999') = (l.purse = 90)
          and pg_visible_in_snapshot(l.xid, b.snapshot)
          and (l.batch_number = '' or exists (
              select 1 from terminal_batch e
              where e.terminal_id = b.terminal_id and e.currency = b.currency
                and e.place <= b.place and e.batch_number = l.batch_number))) as place
from link l join terminal t using (terminal_id)
where l.counts > 0;

-- For settlement: what each acquirer link, merchant and purse amounts to on a business date. `net_minor`
-- above 0 is owed to the merchant.
create view settlement_day as
select link, business_date, merchant_id, purse,
       count(*) filter (where counts = 1) as debits_number,
       count(*) filter (where counts = 2) as debit_reversals_number,
       count(*) filter (where counts = 3) as credits_number,
       count(*) filter (where counts = 4) as credit_reversals_number,
       coalesce(sum(counted_minor) filter (where counts = 1), 0)::bigint as debits_minor,
       coalesce(sum(counted_minor) filter (where counts = 2), 0)::bigint as debit_reversals_minor,
       coalesce(sum(counted_minor) filter (where counts = 3), 0)::bigint as credits_minor,
       coalesce(sum(counted_minor) filter (where counts = 4), 0)::bigint as credit_reversals_minor,
       sum(case when counts in (1, 4) then counted_minor else -counted_minor end)::bigint as net_minor
from counted_link
group by link, business_date, merchant_id, purse;

grant select on reconciliation, terminal_batch, missing_item, cut_over, counted_link, settlement_day
    to cardswitch_app;
grant insert on reconciliation, terminal_batch, missing_item, cut_over to cardswitch_app;
