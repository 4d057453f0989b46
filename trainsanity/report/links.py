"""Addresses of the documentation: the page of each check, and the schema of the JSON report.

``mkdocs.yml`` has the same address; ``tests/test_docs.py`` compares them, and looks for the page
behind each address that a report shows.
"""

from __future__ import annotations

import re

from trainsanity.types import Check

SITE = "https://trainsanity.readthedocs.io/en/latest/"
"""Where the documentation is read."""

SCHEMA = f"{SITE}schema/report-2.json"
"""The schema of the JSON report, which is its ``$id``."""

_OWN = re.compile(r"TS\d{3,}")


def page_url(check: Check) -> str | None:
    """Return the address of a check's page; None for the checks of other packages."""
    return f"{SITE}checks/{check.code}/" if _OWN.fullmatch(check.code) else None
