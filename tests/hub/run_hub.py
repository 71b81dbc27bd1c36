"""The loopback Hub as a process of its own: `python tests/hub/run_hub.py FOLDER [PORT]`. Ends with its input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from loopback_hub import LoopbackHub

if __name__ == "__main__":
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with LoopbackHub(Path(sys.argv[1]), port=port) as hub:
        print(json.dumps({"endpoint": hub.endpoint}), flush=True)  # noqa: T201 - for whoever started it
        sys.stdin.read()
