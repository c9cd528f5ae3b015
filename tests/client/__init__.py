"""A terminal written from the dialect page and public libraries alone.

Nothing here imports the product: what it accepts and what it sends is a second reading of the
same page, so that an error of the switch cannot hide behind the same error in its tests.
"""
