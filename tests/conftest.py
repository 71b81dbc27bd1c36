"""What holds for every test: property tests draw the same examples everywhere, and starting costs no more than it must.

Examples do not depend on the machine, however busy it is: what fails once fails always.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

sys.path.append(str(Path(__file__).parent))  # support that several rooms share

gc.disable()  # thousands of tests and their libraries are no garbage: looking through them is a third of collecting


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()
