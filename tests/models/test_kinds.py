"""Looking up the class of a network brings diffusers, from whichever thread asks first."""

from __future__ import annotations

import subprocess
import sys

import pytest

TWO_AT_ONCE = """
import sys, threading
from paris.models.kinds import expert_of, router_of

found = []
first = threading.Thread(target=lambda: found.append(router_of({"frames": 2})))
first.start()
while "diffusers" not in sys.modules:
    pass
found.append(expert_of({"frames": 2}))
first.join()
print(sorted(kind.__name__ for kind in found))
"""


@pytest.mark.slow
def test_two_threads_that_ask_while_diffusers_is_being_imported_both_get_their_class():
    done = subprocess.run([sys.executable, "-c", TWO_AT_ONCE], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "['VideoExpert', 'VideoRouter']\n", done.stderr
