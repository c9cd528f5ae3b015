-- One trip per batch. 0: committed. 1: this very batch had been committed before. 2: a card's row is
-- not as the batch expects it, nothing was done.
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
        -- Locks in order of card: two batches can wait for each other, never in a ring.
        select count(*) into hit from (
            select 1
            from card_state c
            join unnest(c_card, c_version_from, c_batch_from) as e (card_id, version, batch_id)
                on c.card_id = e.card_id
            where c.version = e.version and c.batch_id = e.batch_id
            order by c.card_id
            for no key update of c
        ) as locked;
        if hit <> cardinality(c_card) then
            perform 1 from link where month = p_month and batch_id = p_batch_id limit 1;
            return case when found then 1 else 2 end;
        end if;
        update card_state c set
            version = u.version, batch_id = p_batch_id, status = u.status,
            ecash_available = u.ecash_available, ecash_held = u.ecash_held,
            voucher_available = u.voucher_available, voucher_held = u.voucher_held,
            points_available = u.points_available, points_held = u.points_held,
            state = u.state, request_window = u.request_window
        from unnest(c_card, c_version_from, c_batch_from, c_version, c_status, c_ecash_available,
                    c_ecash_held, c_voucher_available, c_voucher_held, c_points_available,
                    c_points_held, c_state, c_window)
            as u (card_id, version_from, batch_from, version, status, ecash_available, ecash_held,
                  voucher_available, voucher_held, points_available, points_held, state,
                  request_window)
        where c.card_id = u.card_id and c.version = u.version_from and c.batch_id = u.batch_from;
        get diagnostics hit = row_count;
        if hit <> cardinality(c_card) then
            raise exception 'a locked card row changed under its lock' using errcode = 'CS001';
        end if;
        insert into link (month, batch_id, n, card_id, version, prev_batch_id, request_key, operation,
                          response, tx, purse, amount_minor, available_after, held_after, undoes,
                          terminal_id, merchant_id, batch_number, counts, counted_minor,
                          posted_at, body)
        select p_month, p_batch_id, l.n, l.card_id, l.version, l.prev_batch, l.key, l.operation,
               l.response, l.tx, l.purse, l.amount, l.after, l.held, l.undoes, l.terminal,
               l.merchant, l.number, l.counts, l.counted, p_posted_at, l.body
        from unnest(l_card, l_version, l_prev_batch, l_key, l_operation, l_response, l_tx, l_purse,
                    l_amount, l_after, l_held, l_undoes, l_terminal, l_merchant, l_number, l_counts,
                    l_counted, l_body)
            with ordinality
            as l (card_id, version, prev_batch, key, operation, response, tx, purse, amount, after,
                  held, undoes, terminal, merchant, number, counts, counted, body, n);
        if cardinality(p_n) > 0 then
            insert into posting (month, batch_id, n, leg, card_id, debit_kind, debit_id, credit_kind,
                                 credit_id, amount_minor, purse, currency)
            select p_month, p_batch_id, p.*
            from unnest(p_n, p_leg, p_card, p_debit_kind, p_debit_id, p_credit_kind, p_credit_id,
                        p_amount, p_purse, p_currency) as p;
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
