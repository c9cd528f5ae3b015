"""The checks that Postgres makes of the whole journal at once.

They share no code with what writes the journal: links and postings are judged by what they say
themselves.
"""

from __future__ import annotations

__all__ = ["CHECKS"]

# Each check returns its first broken place as one row (card_id, version, what), or none.
CHECKS: dict[str, str] = {
    "a card's versions count up from 1 without a gap": """
        select card_id, version::bigint, 'the link before it is missing' as what from (
            select card_id, version,
                   row_number() over (partition by card_id order by version) as place
            from link) as numbered
        where version <> place order by card_id, version limit 1""",
    "each link names the batch of the link before it": """
        select card_id, version::bigint, 'its predecessor was written by another batch' as what
        from (
            select card_id, version, prev_batch_id,
                   lag(batch_id, 1, 0::bigint)
                       over (partition by card_id order by version) as before
            from link) as chained
        where prev_batch_id <> before order by card_id, version limit 1""",
    "each link's available amount is the one before it plus its effect": """
        select card_id, version::bigint, 'its amounts do not add up' as what from (
            select card_id, version, available_after, amount_minor,
                   lag(available_after, 1, 0::bigint)
                       over (partition by card_id, purse order by version) as before
            from link) as summed
        where available_after <> before + amount_minor order by card_id, version limit 1""",
    "a link's postings are what it changed of the card's value": """
        select l.card_id, l.version::bigint, 'its postings are not its effect' as what
        from (
            select month, batch_id, n, card_id, version, amount_minor + held_after
                   - lag(held_after, 1, 0::bigint)
                       over (partition by card_id, purse order by version) as effect
            from link) as l
        left join (
            select month, batch_id, n, card_id,
                   sum(case when credit_kind = 1 and credit_id = card_id
                            then amount_minor else 0 end)
                 - sum(case when debit_kind = 1 and debit_id = card_id
                            then amount_minor else 0 end) as effect
            from posting group by month, batch_id, n, card_id) as p
            using (month, batch_id, n, card_id)
        where l.effect <> coalesce(p.effect, 0)
        order by l.card_id, l.version limit 1""",
    "each posting belongs to a link": """
        select p.card_id, 0::bigint as version, 'a posting of a link that is not there' as what
        from posting p left join link l using (month, batch_id, n, card_id)
        where l.card_id is null limit 1""",
    "each batch leaves nothing between two cards": """
        select min(card_id) as card_id, 0::bigint as version,
               'a transfer in its batch left one card and came to none' as what
        from posting where debit_kind = 9 or credit_kind = 9
        group by month, batch_id, purse, currency,
                 case when debit_kind = 9 then debit_id else credit_id end
        having sum(case when debit_kind = 9 then amount_minor else -amount_minor end) <> 0
        order by 1 limit 1""",
    "a card's row is the state after its last link": """
        select c.card_id, c.version::bigint, 'its row is not what its last link left' as what
        from card_state c
        left join lateral (
            select version, batch_id from link l
            where l.card_id = c.card_id order by version desc limit 1) as last on true
        where c.version <> coalesce(last.version, 0) or c.batch_id <> coalesce(last.batch_id, 0)
        order by c.card_id limit 1""",
    "a card's amounts are the sums of its postings": """
        select c.card_id, c.version::bigint, 'its row is not the sum of its postings' as what
        from card_state c
        left join (
            select card_id, purse, sum(case when credit_kind = 1 then amount_minor else 0 end)
                 - sum(case when debit_kind = 1 then amount_minor else 0 end) as total
            from posting group by card_id, purse) as p on p.card_id = c.card_id
        where case p.purse when 60 then c.ecash_available + c.ecash_held
                           when 80 then c.voucher_available + c.voucher_held
                           when 90 then c.points_available + c.points_held
                           else 0 end
              <> coalesce(p.total, 0)
           or (p.card_id is null and c.ecash_available + c.ecash_held + c.voucher_available
               + c.voucher_held + c.points_available + c.points_held <> 0)
        order by c.card_id limit 1""",
    "a key has one effect on a card": """
        select card_id, max(version)::bigint as version,
               'a request key with two approved links' as what
        from link where response in (0, 10)
        group by card_id, request_key having count(*) > 1 order by card_id limit 1""",
    "a link counts what it moved on its merchant's account": """
        select l.card_id, l.version::bigint, 'it counts what it did not move' as what
        from link l
        left join (
            select month, batch_id, n, card_id,
                   sum(case when credit_kind = 2 then amount_minor else 0 end)
                 - sum(case when debit_kind = 2 then amount_minor else 0 end) as net
            from posting group by month, batch_id, n, card_id) as p
            using (month, batch_id, n, card_id)
        where l.counts > 0
          and l.counted_minor * case when l.counts in (1, 4) then 1 else -1 end
              <> coalesce(p.net, 0)
        order by l.card_id, l.version limit 1""",
    "a closed batch's totals are the sums of its links": """
        select 0::bigint as card_id, 0::bigint as version,
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
        where array[b.credits_number, b.credit_reversals_number, b.debits_number,
                    b.debit_reversals_number]
              <> coalesce(l.numbers, array[0, 0, 0, 0]::bigint[])
           or array[b.credits_minor, b.credit_reversals_minor, b.debits_minor,
                    b.debit_reversals_minor]::numeric[]
              <> coalesce(array_replace(l.amounts, null, 0), array[0, 0, 0, 0]::numeric[])
        order by b.terminal_id, b.place limit 1""",
}
