"""What a node keeps, publishes after a restart, and refuses to forget."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from paris.node.announcer import Announcer
from paris.node.home import Home
from paris.node.jobs import Means
from paris.node.publisher import TIP_NOTE, Publisher, forget_state, held_manifest
from paris.node.session import Place
from paris.protocol.manifest import Manifest
from paris.registry.atomic import write_json
from paris.registry.resolve import ResolvedUnit

sys.path.insert(0, str(Path(__file__).parent.parent / "registry"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A node's place in a real signed run; nothing here needs the network."""
    from network_simulator import NetworkSimulator

    network, home = NetworkSimulator(), Home(tmp_path / "home")
    peer = cast("Any", SimpleNamespace(home=home, identity=home.identity(), peer_id=home.identity().peer_id))
    return Place(peer, network.run, network.genesis, means=Means(threads=1))


@pytest.fixture
def publisher(place: Place) -> Publisher:
    return Publisher(place, cast("Announcer", None))


def written(place: Place, from_step: int, to_step: int) -> Path:
    """A checkpoint folder as the training child leaves it, as far as it matters here."""
    folder = place.work("cluster-0") / f"checkpoint-{to_step}"
    folder.mkdir(parents=True)
    write_json(folder / "metrics.json", {"from_step": from_step, "to_step": to_step})
    return folder


def at_step(step: int, signer: str, checkpoint: str = "sha256:" + "1" * 64) -> ResolvedUnit:
    segment = cast("Any", SimpleNamespace(to_step=step, signer=signer))
    return ResolvedUnit("cluster-0", 100, (segment,), (checkpoint,))


SCRATCH = ResolvedUnit("cluster-0", 100)


class TestAfterAKill9:
    def test_unpublished_folders_are_found_in_order(self, place: Place, publisher: Publisher) -> None:
        first, second = written(place, 0, 20), written(place, 20, 40)
        assert publisher.unpublished(SCRATCH) == first
        assert publisher.unpublished(at_step(20, place.peer.peer_id)) == second
        assert publisher.unpublished(at_step(40, place.peer.peer_id)) is None

    def test_first_segment_after_a_takeover_is_not_lost(self, place: Place, publisher: Publisher) -> None:
        parent = at_step(20, "somebody else")
        place.work("cluster-0").mkdir(parents=True)
        publisher.begin(parent)
        folder = written(place, 20, 40)
        assert publisher.unpublished(parent) == folder

    def test_folder_of_another_line_is_not_published(self, place: Place, publisher: Publisher) -> None:
        """Meanwhile somebody else published other weights with the same steps."""
        place.work("cluster-0").mkdir(parents=True)
        publisher.begin(at_step(20, "somebody else"))
        written(place, 20, 40)
        assert publisher.unpublished(at_step(20, "a third", checkpoint="sha256:" + "2" * 64)) is None

    def test_half_written_and_foreign_folders_are_left_alone(self, place: Place, publisher: Publisher) -> None:
        work = place.work("cluster-0")
        for name in (".writing-57", ".checkpoint-20.99-ab.paris-tmp", "checkpoint-20.old", "checkpoint-tmp"):
            (work / name).mkdir(parents=True)
        (work / "checkpoint-60").mkdir()
        assert publisher.unpublished(SCRATCH) is None


class TestForgetting:
    def stored(self, place: Place, tmp_path: Path, state: bytes) -> Manifest:
        folder = tmp_path / f"tree-{state.hex()[:8]}"
        folder.mkdir()
        (folder / "state.safetensors").write_bytes(state)
        (folder / "metrics.json").write_bytes(state + b"!")
        return place.peer.home.store.add_tree(folder)

    def test_old_state_goes_and_the_rest_stays(self, place: Place, tmp_path: Path) -> None:
        manifest, store = self.stored(place, tmp_path, b"old state"), place.peer.home.store
        forget_state(place, manifest.digest)
        assert store.path(manifest.entry("state.safetensors").sha256) is None
        assert store.path(manifest.entry("metrics.json").sha256)
        assert store.path(manifest.digest)

    def test_hostile_manifest_that_calls_a_kept_blob_its_state_deletes_nothing(
        self, place: Place, tmp_path: Path
    ) -> None:
        """The state of the checkpoint this node stands behind, named as an old one's by somebody else's manifest."""
        kept, store = self.stored(place, tmp_path, b"kept state"), place.peer.home.store
        note = {"manifest": kept.digest, "checkpoint": "sha256:" + "3" * 64}
        place.work("cluster-0").mkdir(parents=True)
        write_json(place.work("cluster-0") / TIP_NOTE, note)
        hostile = Manifest.of([kept.entry("state.safetensors")])
        store.put_bytes(hostile.to_bytes())
        forget_state(place, hostile.digest)
        assert store.path(kept.entry("state.safetensors").sha256)

    def test_manifest_that_is_not_here_is_no_error(self, place: Place) -> None:
        forget_state(place, "sha256:" + "4" * 64)

    def test_held_manifest_is_read_from_disk_after_a_restart(self, place: Place) -> None:
        assert held_manifest(place, "cluster-0") is None
        place.work("cluster-0").mkdir(parents=True)
        (place.work("cluster-0") / TIP_NOTE).write_text(json.dumps({"manifest": "sha256:" + "5" * 64}))
        assert held_manifest(place, "cluster-0") == "sha256:" + "5" * 64
