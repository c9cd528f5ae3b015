"""The checks that Postgres makes of the whole journal at once.

They share no code with what writes the journal: links and postings are judged by what they say
themselves. Each is one pass over a table, with sorts and hashes that go to disk beyond `work_mem`,
so that memory does not grow with the journal.
"""

from __future__ import annotations

__all__ = ["CHECKS", "PASSES", "WINDOWS"]

CHECKS = (
    "a card's versions count up from 1 without a gap",
    "each link names the batch of the link before it",
    "each link's available amount is the one before it plus its effect",
    "a link's postings are what it changed of the card's value",
    "each posting has two accounts and an amount",
    "a card's row is the state after its last link",
    "a card's amounts are the sums of its postings",
    "a key has one effect on a card",
    "each batch leaves nothing between two cards",
    "a link counts what it moved on its merchant's account",
    "a closed batch's totals are the sums of its links",
)

_IS_POSTING = """
    (debit_kind between 1 and 9 and credit_kind between 1 and 9 and minor > 0
     and debit_id is not null and credit_id is not null and currency between 0 and 999) is true
"""
_TO_CARD = """
    case when credit_kind = 1 and credit_id = card_id then minor else 0 end
  - case when debit_kind = 1 and debit_id = card_id then minor else 0 end
"""
_TO_MERCHANT = """
    case when credit_kind = 2 then minor else 0 end - case when debit_kind = 2 then minor else 0 end
"""
_NUMBERS = "(debit_kind, debit_id, credit_kind, credit_id, minor, currency)"
# Most links have one posting or none, and need no sum.
_WITH_EFFECTS = f"""
    select l.*, {_TO_CARD} as effect, {_TO_MERCHANT} as to_merchant,
           cardinality(postings) > 0 and not ({_IS_POSTING}) as odd
    from link l
    cross join lateral (values (postings[1], postings[2], postings[3], postings[4], postings[5],
                                postings[6])) as p {_NUMBERS}
    where month > $1 and cardinality(postings) <= 6
    union all
    select l.*, s.effect, s.to_merchant, s.odd
    from link l
    cross join lateral (
        select sum({_TO_CARD})::bigint as effect, sum({_TO_MERCHANT})::bigint as to_merchant,
               bool_or(not ({_IS_POSTING})) as odd
        from generate_series(0, cardinality(postings) - 1, 6) as i
        cross join lateral (values (
            postings[i + 1], postings[i + 2], postings[i + 3], postings[i + 4], postings[i + 5],
            postings[i + 6])) as p {_NUMBERS}
    ) as s
    where month > $1 and cardinality(postings) > 6
"""  # noqa: S608 -- constants
# What a link says of itself beside what its postings say: as narrow as can be, for it is sorted.
_LINKS = f"""
    select card_id, version, batch_id, prev_batch_id, purse, amount_minor, available_after,
           held_after, false as opening, coalesce(effect, 0) - amount_minor as to_held,
           counts > 0 and counted_minor * case when counts in (1, 4) then 1 else -1 end
                          <> coalesce(to_merchant, 0) as miscounted,
           cardinality(postings) % 6 <> 0 or odd as misposted
    from ({_WITH_EFFECTS}) as l
"""  # noqa: S608 -- a constant
# Where months were archived, their openings stand in front of the links: of each purse one row that
# looks like a link and is not judged.
_OPENINGS = """
    select c.card_id, c.version, c.batch_id, 0, p.purse, 0, p.available, p.held, true, 0, false,
           false
    from opening.chain c join opening.card_head h using (card_id)
    cross join lateral (values (60::smallint, h.ecash_available, h.ecash_held),
                               (80::smallint, h.voucher_available, h.voucher_held),
                               (90::smallint, h.points_available, h.points_held))
        as p (purse, available, held)
"""

# Each pass: the checks it makes, and a query of broken places (number of the check, card_id,
# version, what).
PASSES: tuple[tuple[tuple[int, ...], str], ...] = (
    (
        (0, 1, 2, 3, 4, 9),
        f"""
        select c.number, s.card_id, s.version::bigint as version, c.what
        from (
            select card_id, version, prev_batch_id, amount_minor, available_after, held_after,
                   opening, to_held, miscounted, misposted,
                   lag(version, 1, 0) over by_card as version_before,
                   lag(batch_id, 1, 0::bigint) over by_card as batch_before,
                   lag(available_after, 1, 0::bigint) over by_purse as available_before,
                   lag(held_after, 1, 0::bigint) over by_purse as held_before
            from ({_LINKS} union all {_OPENINGS}) as rows
            window by_card as (partition by card_id order by version),
                   by_purse as (partition by card_id, purse order by version)) as s
        cross join lateral (values
            (0, version <> version_before + 1, 'the link before it is missing'),
            (1, prev_batch_id <> batch_before, 'its predecessor was written by another batch'),
            (2, available_after <> available_before + amount_minor, 'its amounts do not add up'),
            (3, held_after - held_before <> to_held, 'its postings are not its effect'),
            (9, miscounted, 'it counts what it did not move'),
            (4, misposted, 'its postings are none')
        ) as c (number, broken, what)
        where not opening and c.broken
          and (version <> version_before + 1 or prev_batch_id <> batch_before
               or available_after <> available_before + amount_minor
               or held_after - held_before <> to_held or miscounted or misposted)
        order by s.card_id, s.version, c.number limit 50""",  # noqa: S608 -- constants
    ),
    (
        (6,),
        """
        select 6 as number, c.card_id, c.version::bigint,
               'its row is not the sum of its postings' as what
        from card_state c
        left join (
            select card_id, sum(ecash) as ecash, sum(voucher) as voucher, sum(points) as points,
                   sum(other) as other
            from (
                select card_id, case when purse = 60 then amount end as ecash,
                       case when purse = 80 then amount end as voucher,
                       case when purse = 90 then amount end as points,
                       case when purse not in (60, 80, 90) then amount end as other
                from (
                    select card_id, purse,
                           sum(case when credit_kind = 1 then amount_minor else 0 end)
                         - sum(case when debit_kind = 1 then amount_minor else 0 end) as amount
                    from posting where month > $1 group by card_id, purse
                    union all
                    select card_id, p.purse, p.amount
                    from opening.card_head h
                    cross join lateral (values (60, h.ecash_available + h.ecash_held),
                        (80, h.voucher_available + h.voucher_held),
                        (90, h.points_available + h.points_held)) as p (purse, amount)
                ) as by_purse) as spread
            group by card_id) as p on p.card_id = c.card_id
        where c.ecash_available + c.ecash_held <> coalesce(p.ecash, 0)
           or c.voucher_available + c.voucher_held <> coalesce(p.voucher, 0)
           or c.points_available + c.points_held <> coalesce(p.points, 0)
           or coalesce(p.other, 0) <> 0
        order by c.card_id limit 20""",
    ),
    (
        # Keys that are there more than once come from their index alone, and are few.
        (7,),
        """
        select 7 as number, card_id, max(version)::bigint as version,
               'a request key with two approved links' as what
        from link
        join (select request_key from (select request_key from link order by 1) as ordered
              group by request_key having count(*) > 1) as several using (request_key)
        where response in (0, 10) and month > $1
        group by card_id, request_key having count(*) > 1 order by card_id limit 20""",
    ),
    (
        (8,),
        """
        select 8 as number, min(card_id) as card_id, 0::bigint as version,
               'a transfer in its batch left one card and came to none' as what
        from posting where (debit_kind = 9 or credit_kind = 9) and month > $1
        group by month, batch_id, purse, currency,
                 case when debit_kind = 9 then debit_id else credit_id end
        having sum(case when debit_kind = 9 then amount_minor else -amount_minor end) <> 0
        order by 2 limit 20""",
    ),
    (
        # A batch has links that were archived, unless the one before it was closed after them.
        (10,),
        """
        select 10 as number, 0::bigint as card_id, 0::bigint as version,
               format('terminal %s, batch %s (%s)', b.terminal_id, b.place, b.currency) as what
        from terminal_batch b
        left join (
            select terminal_id, purse = 90 as points, place,
                   array[count(*) filter (where counts = 3), count(*) filter (where counts = 4),
                         count(*) filter (where counts = 1), count(*) filter (where counts = 2)]
                       as numbers,
                   array[sum(counted_minor) filter (where counts = 3),
                         sum(counted_minor) filter (where counts = 4),
                         sum(counted_minor) filter (where counts = 1),
                         sum(counted_minor) filter (where counts = 2)] as amounts
            from counted_link group by terminal_id, purse = 90, place) as l
            on l.terminal_id = b.terminal_id and l.place = b.place
               and l.points = (b.currency = '999')
        where ($1::date = '-infinity' or exists (
                select from terminal_batch q where q.terminal_id = b.terminal_id
                and q.currency = b.currency and q.place = b.place - 1
                and q.closed_at >= ($1::date + interval '1 month') at time zone 'utc'))
          and (array[b.credits_number, b.credit_reversals_number, b.debits_number,
                     b.debit_reversals_number]
               <> coalesce(l.numbers, array[0, 0, 0, 0]::bigint[])
            or array[b.credits_minor, b.credit_reversals_minor, b.debits_minor,
                     b.debit_reversals_minor]::numeric[]
               <> coalesce(array_replace(l.amounts, null, 0), array[0, 0, 0, 0]::numeric[]))
        order by b.terminal_id, b.place limit 20""",
    ),
)

# What a card's window must hold: the keys of its newest links, and the latest instant of the older,
# of which one without an instant counts as the earliest.
WINDOWS = """
select coalesce(c.card_id, l.card_id) as card_id, c.version, c.batch_id, c.status,
       c.ecash_available, c.ecash_held,
       c.voucher_available, c.voucher_held, c.points_available, c.points_held, c.state,
       c.request_window, l.last, b.batch_id as last_batch_id, b.body as last_body, l.keys,
       l.dropped, o.version as opening_version, o.batch_id as opening_batch_id,
       o.state as opening_state,
       o.request_window as opening_window
from card_state c
full join (
    select card_id, max(version) as last, max(month) as last_month,
           string_agg(request_key || int4send(version), ''::bytea order by version)
               filter (where place <= $2) as keys,
           max(greatest(encode(substr(request_key, 1, 4), 'hex'), '00000001'))
               filter (where place > $2) as dropped
    from (
        select card_id, version, month, request_key,
               row_number() over (partition by card_id order by version desc) as place
        from link where month > $1) as placed
    group by card_id) as l on l.card_id = c.card_id
left join lateral (
    select batch_id, body from link
    where card_id = l.card_id and version = l.last and month = l.last_month limit 1) as b on true
left join opening.chain o on o.card_id = coalesce(c.card_id, l.card_id)
"""
