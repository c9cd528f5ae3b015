"""`cardswitch verify`: does everything the journal says hold together, and is it what it was?"""

from switch.verify.command import run_verify
from switch.verify.report import Finding, Report
from switch.verify.sql import CHECKS
from switch.verify.verification import verify

__all__ = ["CHECKS", "Finding", "Report", "run_verify", "verify"]
