"""What is read from the journal in the order of its commits: balances, liability, open items.

A projection can be made anew from the journal at any time (`cardswitch rebuild`); nothing that
decides about money reads one. The digests that are made on the way prove later that the journal is
what it was.
"""
