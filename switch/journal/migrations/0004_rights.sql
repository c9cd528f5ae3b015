-- The switch's own role: it adds to the journal and moves card rows on. It deletes nothing, truncates
-- nothing, and changes no link.
do $$ begin
    if not exists (select from pg_roles where rolname = 'cardswitch_app') then
        create role cardswitch_app login;
    end if;
end $$;

grant usage on schema public to cardswitch_app;
grant select on all tables in schema public to cardswitch_app;
grant insert on link, posting, refusal, barrier to cardswitch_app;
grant update on card_state, barrier to cardswitch_app;
grant usage on sequence run_number to cardswitch_app;
