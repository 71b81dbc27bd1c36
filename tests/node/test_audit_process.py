"""An audit as a person makes it, over a real network: measured, executed again, published, and seen by the next."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from node_support import LOOPBACK, Contributor, last_json, paris_node

from paris.node.home import Home
from paris.registry.runkey import RunKey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(580)]


def test_audit_measures_replays_publishes_and_is_read_by_others(pictures: Path, tmp_path: Path) -> None:
    created = paris_node(
        *("run", "create", pictures, "--clusters", 2, "--model", "micro", "--steps", 200, "--publish-every", 100),
        *("--router-steps", 100, "--lease", 30, "--settle", 1, "--home", tmp_path / "ada", "--json"),
    )
    assert created.returncode == 0, created.stderr
    key = RunKey.parse(last_json(created)["run"])

    async def scene() -> None:
        ada = Contributor("ada", tmp_path)
        try:
            await ada.start(str(key), "--threads", "1")
            await ada.until("complete")
            at = str(key.with_peers(tuple(ada.addrs[:1])))
            ben, cleo = (("--home", tmp_path / name, "--listen", LOOPBACK) for name in ("ben", "cleo"))
            page, bundle = tmp_path / "audit.html", tmp_path / "audit.intoto.jsonl"
            deep = ("--evaluate", "--replay", 1, "--threads", 1, "--html", page, "--provenance", bundle, "--json")
            done = await asyncio.to_thread(paris_node, "audit", at, *deep, *ben, timeout_s=400)
            assert done.stdout, done.stderr
            report = last_json(done)
            replays = [check for unit in report["units"] for check in unit["checks"] if check["level"] == "replayed"]
            assert len(replays) == 1, done.stderr
            assert "every bit as published" in replays[0]["detail"]
            assert done.returncode == 0, report["audit"]
            assert {unit["level"] for unit in report["units"]} == {"evaluated", "replayed"}
            assert "<svg" in page.read_text()
            assert all(json.loads(line)["signatures"] for line in bundle.read_text().splitlines())

            seen = last_json(await asyncio.to_thread(paris_node, "audit", at, *cleo, "--json"))
            name = Home(tmp_path / "ben").identity().peer_id
            for unit in seen["units"]:
                assert [(o["signer"], o["holds"], o["own"]) for o in unit["opinions"]] == [(name, True, False)]
        finally:
            await ada.end()

    asyncio.run(scene())
