-- As before, and cheaper. Cards were locked first and written then, which read each row twice and
-- wrote to the log for both: now the update is the lock. And values are taken from the arrays by their
-- place: `unnest` of several arrays keeps the rows of each in a store of its own first.
-- A batch of which only some cards are as it expects ends with CS002.
create or replace function append_batch(
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
    -- postings; p_n is the position of its link
    p_n smallint[], p_leg smallint[], p_card bigint[], p_debit_kind smallint[], p_debit_id bigint[],
    p_credit_kind smallint[], p_credit_id bigint[], p_amount bigint[], p_purse smallint[],
    p_currency text[],
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
        insert into link (month, batch_id, n, card_id, version, prev_batch_id, request_key, operation,
                          response, tx, purse, amount_minor, available_after, held_after, undoes,
                          terminal_id, merchant_id, batch_number, counts, counted_minor,
                          posted_at, body)
        select p_month, p_batch_id, i, l_card[i], l_version[i], l_prev_batch[i], l_key[i],
               l_operation[i], l_response[i], l_tx[i], l_purse[i], l_amount[i], l_after[i],
               l_held[i], l_undoes[i], l_terminal[i], l_merchant[i], l_number[i], l_counts[i],
               l_counted[i], p_posted_at, l_body[i]
        from generate_series(1, cardinality(l_card)) as i;
        if cardinality(p_n) > 0 then
            insert into posting (month, batch_id, n, leg, card_id, debit_kind, debit_id, credit_kind,
                                 credit_id, amount_minor, purse, currency)
            select p_month, p_batch_id, p_n[i], p_leg[i], p_card[i], p_debit_kind[i],
                   p_debit_id[i], p_credit_kind[i], p_credit_id[i], p_amount[i], p_purse[i],
                   p_currency[i]
            from generate_series(1, cardinality(p_n)) as i;
        end if;
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
