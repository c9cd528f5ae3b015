"""Foreign message specifications, read into our own form and written in one of theirs.

A jPOS GenericPackager XML and the JSON or YAML of moov-io/iso8583 both become a `Packager`, so that
a dialect a site already has is a file, not a program. What the codec could not reproduce byte for
byte is refused with a ValueError that names the field.
"""

from fastpath._jpos import from_jpos_xml
from fastpath._moov import from_moov_json, from_moov_yaml, to_moov_json

__all__ = ["from_jpos_xml", "from_moov_json", "from_moov_yaml", "to_moov_json"]
