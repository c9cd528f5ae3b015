"""The dialect's truth table, row by row, as stories that can be read aloud."""
