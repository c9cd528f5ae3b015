-- Months that were archived. Links up to the end of the month `through` of the newest row are not
-- looked for in the tables any more, whether their partitions are still there or not: they are read
-- from the archive, or the openings stand for them.
create table archive_cut (
    number int primary key check (number > 0),  -- counts up from 1
    through date not null unique,
    manifest bytea not null,                    -- signed; as it lies in the archive's directory
    made_at timestamptz not null default now()
);

-- What the archived links left: of each card here, of each projection in a table of its name.
create schema opening;
create table opening.chain (
    card_id bigint primary key,
    version int not null,
    batch_id bigint not null,
    state bytea not null,
    request_window bytea not null
) with (fillfactor = 70);
create table opening.card_head (like public.card_head including all);

create function archived_through() returns date language sql stable as $$
    select coalesce(max(through), '-infinity') from archive_cut
$$;

grant usage on schema opening to cardswitch_app;
grant select on archive_cut, opening.chain, opening.card_head to cardswitch_app;
