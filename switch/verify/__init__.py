"""`cardswitch verify`: does everything the journal says hold together, and is it what it was?"""

from switch.verify.command import add_parser
from switch.verify.report import Finding, Report
from switch.verify.sql import CHECKS
from switch.verify.verification import verify

__all__ = ["CHECKS", "Finding", "Report", "add_parser", "verify"]
