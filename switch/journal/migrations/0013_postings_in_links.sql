-- A link's postings stand in its own row. As rows of a table of their own each of them was a second
-- row, with a second index entry, for what is read with its link or not at all.
--
-- Six numbers each, in order of leg: debit_kind, debit_id, credit_kind, credit_id, amount_minor and the
-- currency's number (ISO 4217). The purse is the link's. The view `posting` shows them as rows.
create function are_postings(numbers bigint[]) returns boolean language sql immutable as $$
    select numbers is not null and cardinality(numbers) % 6 = 0 and cardinality(numbers) <= 600
       and array_position(numbers, null) is null
       and not exists (select from generate_series(5, cardinality(numbers), 6) as i
                       where (numbers[i] > 0) is not true)
$$;

alter table link add column postings bigint[] not null default '{}';

update link l set postings = p.numbers
from (
    select month, batch_id, n, card_id,
           array_agg(number order by leg, place) as numbers
    from posting
    cross join lateral unnest(array[debit_kind, debit_id, credit_kind, credit_id, amount_minor,
                                    currency::bigint]) with ordinality as u (number, place)
    group by month, batch_id, n, card_id) as p
where (l.month, l.batch_id, l.n, l.card_id) = (p.month, p.batch_id, p.n, p.card_id);

-- Nothing may get lost: what belongs to no link stops the migration, and a person looks at it.
do $$ begin
    if (select count(*) from posting) <> (select coalesce(sum(cardinality(postings)), 0) / 6 from link)
    then
        raise exception 'there are postings of links that are not there: run verify before';
    end if;
end $$;

-- Most links have one posting: they are looked at without a call.
alter table link add constraint link_postings check (
    case cardinality(postings)
        when 6 then (postings[5] > 0) is true
        when 0 then true
        else are_postings(postings)
    end);

drop view card_statement, ledger_posting;
drop table posting;

-- What is no kind of account and no currency shows as null: a row that somebody has changed is to be
-- found, not to stop whoever looks for it.
create function int2_or_null(number bigint) returns smallint language sql immutable as $$
    select case when number between -32768 and 32767 then number::smallint end
$$;
create function currency_or_null(number bigint) returns char(3) language sql immutable as $$
    select case when number between 0 and 999 then lpad(number::text, 3, '0')::char(3) end
$$;

create function postings_of(
    numbers bigint[], out leg smallint, out debit_kind smallint, out debit_id bigint,
    out credit_kind smallint, out credit_id bigint, out amount_minor bigint, out currency char(3)
) returns setof record language sql immutable as $$
    select (start / 6)::smallint, int2_or_null(numbers[start + 1]), numbers[start + 2],
           int2_or_null(numbers[start + 3]), numbers[start + 4], numbers[start + 5],
           currency_or_null(numbers[start + 6])
    from generate_series(0, cardinality(numbers) - 1, 6) as start
$$;

create view posting as
select l.month, l.batch_id, l.n, p.leg, l.card_id, p.debit_kind, p.debit_id, p.credit_kind,
       p.credit_id, p.amount_minor, l.purse, p.currency
from link l cross join lateral postings_of(l.postings) p;

-- What they say is what they said.
create view ledger_posting as
select l.tx,
       account_name(p.debit_kind, p.debit_id) as debit,
       account_name(p.credit_kind, p.credit_id) as credit,
       p.amount_minor, l.purse, p.currency, l.posted_at
from link l cross join lateral postings_of(l.postings) p;

create view card_statement as
select l.card_id, l.version, l.posted_at, l.tx, l.operation, l.response, l.purse, l.amount_minor,
       l.available_after, l.held_after, trim(m.code) as merchant, m.name as merchant_name,
       account_name(p.debit_kind, p.debit_id) as debit,
       account_name(p.credit_kind, p.credit_id) as credit,
       p.amount_minor as posted_minor, p.currency
from link l
left join merchant m on m.merchant_id = l.merchant_id
left join lateral postings_of(l.postings) p on true;

grant select on posting, ledger_posting, card_statement to cardswitch_app;

create or replace function ensure_months(ahead int) returns void language plpgsql as $$
declare
    first date := date_trunc('month', now() at time zone 'utc')::date;
    lower_bound date;
    parent text;
begin
    for i in -1 .. ahead loop
        lower_bound := first + make_interval(months => i);
        foreach parent in array array['link', 'refusal'] loop
            execute format(
                'create table if not exists %I partition of %I for values from (%L) to (%L)',
                parent || to_char(lower_bound, '_YYYY_MM'), parent,
                lower_bound, (lower_bound + interval '1 month')::date);
        end loop;
    end loop;
end $$;

do $$ begin
    execute format('drop function %s', (select oid::regprocedure from pg_proc
                                        where proname = 'append_batch'));
end $$;

-- As before, with the postings among the links. A link's own begin at its place in `l_first`, and end
-- where the next one's begin.
create function append_batch(
    p_month date, p_batch_id bigint, p_posted_at timestamptz,
    -- cards, in order of card_id
    c_card bigint[], c_version_from int[], c_batch_from bigint[], c_version int[], c_status smallint[],
    c_ecash_available bigint[], c_ecash_held bigint[], c_voucher_available bigint[],
    c_voucher_held bigint[], c_points_available bigint[], c_points_held bigint[],
    c_state bytea[], c_window bytea[],
    -- links, in order of card_id and version
    l_card bigint[], l_version int[], l_prev_batch bigint[], l_key bytea[], l_operation smallint[],
    l_response smallint[], l_tx text[], l_purse smallint[], l_amount bigint[], l_after bigint[],
    l_held bigint[], l_undoes int[], l_terminal int[], l_merchant int[], l_number text[],
    l_counts smallint[], l_counted bigint[], l_body bytea[],
    -- the numbers of all postings, and where each link's begin, with the end behind them
    p_numbers bigint[], l_first int[],
    -- refusals that reached no card
    r_link text[], r_mti text[], r_response smallint[], r_rule text[], r_terminal text[],
    r_stan text[], r_digest bytea[]
) returns int language plpgsql as $$
declare
    hit int;
begin
    if cardinality(c_card) > 0 then
        -- The condition is the fence, and the update is the lock: in order of card, so that two batches
        -- can wait for each other, never in a ring. What a batch waited for is looked at again.
        update card_state c set
            version = c_version[u.i], batch_id = p_batch_id, status = c_status[u.i],
            ecash_available = c_ecash_available[u.i], ecash_held = c_ecash_held[u.i],
            voucher_available = c_voucher_available[u.i], voucher_held = c_voucher_held[u.i],
            points_available = c_points_available[u.i], points_held = c_points_held[u.i],
            state = c_state[u.i], request_window = c_window[u.i]
        from (select i, c_card[i] as card_id from generate_series(1, cardinality(c_card)) as i
              order by c_card[i]) as u
        where c.card_id = u.card_id and c.version = c_version_from[u.i]
          and c.batch_id = c_batch_from[u.i];
        get diagnostics hit = row_count;
        if hit = 0 then
            perform 1 from link where month = p_month and batch_id = p_batch_id limit 1;
            return case when found then 1 else 2 end;
        end if;
        if hit <> cardinality(c_card) then
            -- Undoes the rows that were as expected. It was not committed before: then none is.
            raise exception 'a card of the batch is not as it expects' using errcode = 'CS002';
        end if;
        -- Most links have one posting, which is put together; a slice copies all that there are.
        insert into link (month, batch_id, n, card_id, version, prev_batch_id, request_key, operation,
                          response, tx, purse, amount_minor, available_after, held_after, undoes,
                          terminal_id, merchant_id, batch_number, counts, counted_minor,
                          posted_at, body, postings)
        select p_month, p_batch_id, i, l_card[i], l_version[i], l_prev_batch[i], l_key[i],
               l_operation[i], l_response[i], l_tx[i], l_purse[i], l_amount[i], l_after[i],
               l_held[i], l_undoes[i], l_terminal[i], l_merchant[i], l_number[i], l_counts[i],
               l_counted[i], p_posted_at, l_body[i],
               case l_first[i + 1] - l_first[i]
                   when 6 then array[p_numbers[l_first[i]], p_numbers[l_first[i] + 1],
                                     p_numbers[l_first[i] + 2], p_numbers[l_first[i] + 3],
                                     p_numbers[l_first[i] + 4], p_numbers[l_first[i] + 5]]
                   when 0 then '{}'
                   else p_numbers[l_first[i] : l_first[i + 1] - 1]
               end
        from generate_series(1, cardinality(l_card)) as i;
    end if;
    if cardinality(r_link) > 0 then
        insert into refusal (month, batch_id, n, posted_at, link, mti, response, rule, terminal, stan,
                             card_digest)
        select p_month, p_batch_id, r.n, p_posted_at, r.link, r.mti, r.response, r.rule, r.terminal,
               r.stan, r.digest
        from unnest(r_link, r_mti, r_response, r_rule, r_terminal, r_stan, r_digest)
            with ordinality as r (link, mti, response, rule, terminal, stan, digest, n)
        on conflict do nothing;
    end if;
    return 0;
end $$;
