-- What a programme decides: times, lives of lots, limits, fees. 0 is none, null the setting's.
alter table programme
    add column utc_offset_min smallint not null default 0
        check (utc_offset_min between -840 and 840),            -- where its days begin
    add column hold_s int check (hold_s > 0),
    add column pin_tries_max smallint check (pin_tries_max > 0),
    add column code_tries_max smallint check (code_tries_max > 0),
    add column paid_days int not null default 0 check (paid_days between 0 and 36525),
    add column promo_days int not null default 0 check (promo_days between 0 and 36525),
    add column reward_days int not null default 0 check (reward_days between 0 and 36525),
    add column refund_days int not null default 0 check (refund_days between 0 and 36525),
    add column goodwill_days int not null default 0 check (goodwill_days between 0 and 36525),
    add column renewal_days int not null default 7 check (renewal_days between 1 and 36525),
    add column refund_cashable boolean not null default false,
    add column dormancy_months smallint not null default 0 check (dormancy_months >= 0),
    add column dormancy_fee_minor bigint not null default 0 check (dormancy_fee_minor >= 0),
    add column dormancy_spares_promo boolean not null default true;

-- What a card may do, by class: class 0 is that of every card whose own class has no row. 0: no limit.
create table card_limit (
    programme_id int not null references programme,
    limit_class smallint not null check (limit_class >= 0),
    transaction_max_minor bigint not null default 0 check (transaction_max_minor >= 0),
    return_max_minor bigint not null default 0 check (return_max_minor >= 0),  -- naming no sale
    day_max_minor bigint not null default 0 check (day_max_minor >= 0),
    day_count_max int not null default 0 check (day_count_max >= 0),
    balance_max_minor bigint not null default 0 check (balance_max_minor >= 0),
    primary key (programme_id, limit_class)
);
alter table card add column limit_class smallint not null default 0 check (limit_class >= 0);

-- Who gives promotional value: the account promo:<sponsor_id>.
create table sponsor (
    sponsor_id int primary key check (sponsor_id > 0),
    programme_id int not null references programme,
    name text not null,
    open boolean not null default true
);

alter table terminal add column programme boolean not null default false;

-- What time will do to a card: a projection, by which the sweeper finds its work. It says whether there
-- is value, not how much: a row that changed with every purchase would cost each of them.
create table card_life (
    card_id bigint primary key,
    programme_id int not null,
    status smallint not null,
    due_day int not null,                       -- first last day of its lots, since 1970-01-01; 0: none
    last_active_day int not null,               -- 0: unknown
    fee_month int not null,                     -- of its last dormancy fee, counted from year 0
    ecash_there boolean not null,               -- e-cash is available
    ecash_paid boolean not null                 -- some of it not given by a sponsor
) with (fillfactor = 70);
create index card_life_due on card_life (due_day) where due_day > 0;
-- Sought month by month of the last fee: who has paid this month's is never looked at again.
create index card_life_idle on card_life (programme_id, fee_month, last_active_day)
    where status = 3 and last_active_day > 0 and ecash_there;

grant select on sponsor, card_limit, card_life to cardswitch_app;
grant insert, update on card_life to cardswitch_app;
