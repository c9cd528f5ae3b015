-- What is on a card, its row says (card_state). A copy of it among the projections changed with every
-- link, and nobody read it: it was a third of what projecting costs. Openings of archived months keep
-- theirs, since no row says what was on a card then.
drop table card_head;
