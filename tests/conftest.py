"""What holds for every test: property tests draw the same examples everywhere, and starting costs no more than it must.

Examples do not depend on the machine, however busy it is: what fails once fails always.
"""

from __future__ import annotations

import gc

from hypothesis import HealthCheck, settings

settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

gc.disable()  # thousands of tests and their libraries are no garbage: looking through them is a third of collecting


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()
