-- Two views that others may build on; their columns do not change.

create function account_name(kind smallint, id bigint) returns text language sql stable as $$
    select case kind
        when 1 then 'card:' || id
        when 2 then 'merchant:' || coalesce((select trim(code) from merchant where merchant_id = id), id::text)
        when 3 then 'float:' || id
        when 4 then 'shortfall:' || coalesce((select trim(code) from merchant where merchant_id = id), id::text)
        when 5 then 'suspense:' || coalesce((select trim(code) from merchant where merchant_id = id), id::text)
        when 6 then 'fee:' || id
        when 7 then 'promo:' || id
        when 8 then 'breakage:' || id
        when 9 then 'transfer:' || id
    end
$$;

create view ledger_posting as
select l.tx,
       account_name(p.debit_kind, p.debit_id) as debit,
       account_name(p.credit_kind, p.credit_id) as credit,
       p.amount_minor, p.purse, p.currency, l.posted_at
from posting p
join link l using (month, batch_id, n, card_id);

create view card_link as
select card_id, version, tx, lpad(response::text, 2, '0') as response, amount_minor,
       available_after, posted_at
from link;
