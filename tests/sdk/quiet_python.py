"""A Python for tests that compare what it prints: a wheel without a kernel says so there, which is tested elsewhere."""

from __future__ import annotations

import sys
from typing import Final

QUIET_PYTHON: Final = (sys.executable, "-W", "ignore:hiersrec_sdk was imported")
