"""Months older than the horizon, in files that anybody can read instead of in Postgres.

What they left (openings) is signed with them, so that the rest can be checked and made anew without
them; with them, everything can.
"""
