"""A run that ends up on the Hub: a real contributor publishes there while it trains; what it made outlives it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hub_testing import HubProcess, hub_process, point_client_at
from huggingface_hub import HfApi
from node_support import LOOPBACK, Contributor, last_json, paris_node

from paris.registry.runkey import RunKey

TARGETS = {("cluster-0", 400), ("cluster-1", 400), ("router", 200)}
pytestmark = pytest.mark.slow


async def train_and_publish(hub: HubProcess, key: RunKey, folder: Path) -> tuple[list[dict[str, Any]], RunKey]:
    """Ada trains everything; the Hub fails at first. She amends the run, publishes its registry, and is killed."""
    hub.faults({"match": "POST .*/commit/", "status": 503, "times": 1})
    ada = Contributor("ada", folder)
    try:
        await ada.start(str(key), "--threads", "1", "--hub", "squares", "--hub-state")
        await ada.until("complete")
        while not {(event["unit"], event["step"]) for event in ada.events if event["event"] == "hub"} >= TARGETS:
            await ada.until_more()
        home = ("--home", folder / "ada", "--listen", LOOPBACK, "--json")
        shared = key.with_peers(ada.addrs)
        amended = await asyncio.to_thread(paris_node, "run", "amend", shared, "--copies", 2, "--leave", *home)
        assert amended.returncode == 0, amended.stderr
        done = await asyncio.to_thread(paris_node, "hub", "publish-registry", shared, "--repo", "ann/registry", *home)
        assert done.returncode == 0, done.stderr
        assert last_json(done)["peers"] == 1
        return ada.events, RunKey.parse(last_json(done)["run"])
    finally:
        ada.kill()
        await ada.end()


def test_what_contributors_published_outlives_them(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = paris_node(
        *("run", "create", pictures, "--clusters", 2, "--model", "micro", "--steps", 400, "--publish-every", 200),
        *("--router-steps", 200, "--lease", 12, "--settle", 1, "--home", tmp_path / "ada", "--json"),
    )
    assert created.returncode == 0, created.stderr
    with hub_process(tmp_path / "hub") as hub:
        point_client_at(hub.endpoint, monkeypatch, token="hf_ann")
        key = RunKey.parse(last_json(created)["run"])
        events, registry = asyncio.run(train_and_publish(hub, key, tmp_path))
        published = [event for event in events if event["event"] == "published"]
        api = HfApi(endpoint=hub.endpoint, token="hf_ann")
        [repository] = {event["repository"] for event in events if event["event"] == "hub"}
        commits = api.list_repo_commits(repository)[:-1]
        assert 3 <= len(commits) <= len(published), "at most one a checkpoint"
        assert any("503" in event["reason"] for event in events if event["event"] == "hub-waits")
        home = ("--home", tmp_path / "new", "--listen", LOOPBACK, "--json")
        fetched = paris_node("fetch", registry, "--to", tmp_path / "ensemble", *home)
        assert fetched.returncode == 0, fetched.stderr
        assert last_json(fetched)["complete"]
        assert last_json(fetched)["head"]["genesis_version"] == 2, "what came after the key's genesis lies there too"
        assert (tmp_path / "ensemble" / "model_index.json").exists()
