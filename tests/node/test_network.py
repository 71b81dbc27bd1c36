"""A whole network of real processes on loopback: claims, a kill -9, a takeover, a stranger who fetches and audits."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from node_support import LOOPBACK, files_in, last_json, paris_node

from paris.node.demo.processes import NodeProcess
from paris.node.home import Home
from paris.node.overview import look, rows
from paris.node.peer import open_peer
from paris.node.settings import Settings
from paris.protocol import strict_json
from paris.protocol.charter import Charter
from paris.protocol.envelope import sign
from paris.protocol.errors import SignatureError
from paris.protocol.identity import Identity, public_key_of
from paris.protocol.manifest import Manifest
from paris.protocol.records import Tip, record_key
from paris.protocol.validation import check_record
from paris.registry.resolve import ResolvedRun, ResolvedUnit, load_genesis
from paris.registry.runkey import RunKey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DEADLINE_S = 420


@dataclass
class Story:
    """What happened in the network, told by its processes and by the DHT."""

    key: RunKey
    homes: Path
    names: dict[str, str] = field(default_factory=dict)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    curator: str = ""
    victim: str = ""
    lost_unit: str = ""
    published_before_kill: str = ""
    step_before_kill: int = 0
    end: ResolvedRun | None = None


class Told(NodeProcess):
    """A node whose events are all kept."""

    def __init__(self, name: str, story: Story) -> None:
        super().__init__(name, story.homes / name, story.homes / f"{name}.log")
        self._story = story

    def _note(self, event: dict[str, Any]) -> None:
        super()._note(event)
        self._story.events.append((self.name, event))


async def live_through(story: Story) -> None:
    """Curator and three contributors; kill -9 whoever is first half-way with a copy elsewhere; wait for the end."""
    curator = Told("curator", story)
    contributors = [Told(name, story) for name in ("ada", "bea", "cleo")]
    try:
        await curator.start(str(story.key), "--no-train")
        await curator.ready()
        story.key, story.curator = story.key.with_peers(curator.addrs), curator.peer_id
        for node in contributors:
            await node.start(str(story.key), "--threads", "1")
        for node in contributors:
            await node.ready()
        story.names = {node.peer_id: node.name for node in contributors}
        await watch(story, {node.peer_id: node for node in contributors})
    finally:
        await asyncio.gather(*(node.end() for node in (*contributors, curator)))


async def watch(story: Story, contributors: dict[str, Told]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    settings = Settings.load(home=story.homes / "observer", listen=LOOPBACK)
    async with open_peer(settings, story.key, serve=False) as peer:
        charter = Charter.begin(await load_genesis(peer.library, story.key.run), story.key.run)
        while time.monotonic() < deadline_s:
            resolved, claims, names = await look(peer.library, story.key.run, charter)
            if not story.victim:
                kill_somebody(story, resolved, rows(resolved, claims, names), contributors)
            elif resolved.complete and all(story.curator in unit.providers for unit in resolved.units.values()):
                story.end = resolved
                return
            await asyncio.sleep(1)
    pytest.fail(f"not complete in time; see {story.homes}")


def kill_somebody(
    story: Story, resolved: ResolvedRun, table: list[dict[str, Any]], contributors: dict[str, Told]
) -> None:
    for row in table:
        begun = 0 < row["published_step"] < row["target"]
        if begun and row["unit"] != "router" and row["copies"] > 1 and row["holder"] in contributors:
            unit = resolved.units[row["unit"]]
            story.victim, story.lost_unit = contributors[row["holder"]].name, row["unit"]
            story.published_before_kill, story.step_before_kill = str(unit.checkpoint), unit.step
            contributors[row["holder"]].kill()
            return


@pytest.fixture(scope="module")
def story(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    homes = tmp_path_factory.mktemp("homes")
    created = paris_node(
        *("run", "create", pictures, "--clusters", 2, "--model", "micro", "--steps", 1600, "--publish-every", 200),
        *("--router-steps", 200, "--lease", 12, "--settle", 2, "--copies", 8, "--home", homes / "curator", "--json"),
    )
    assert created.returncode == 0, created.stderr
    told = Story(RunKey.parse(last_json(created)["run"]), homes)
    asyncio.run(live_through(told))
    return told


def test_claims_do_not_collide(story: Story) -> None:
    """Everybody first trained something else, and every unit has one line of parents."""
    first = {name: event["unit"] for name, event in reversed(story.events) if event.get("event") == "training"}
    assert len(first) == 3
    assert len(set(first.values())) == 3
    assert story.end
    for unit in story.end.units.values():
        assert [segment.parent for segment in unit.lineage] == [None, *unit.digests[:-1]]


def test_sigkill_leads_to_takeover_without_losing_a_published_step(story: Story) -> None:
    assert story.end
    unit = story.end.units[story.lost_unit]
    trained_by = [story.names[holder] for holder in unit.holders]
    assert trained_by[0] == story.victim
    assert len(set(trained_by)) == 2
    assert story.published_before_kill in unit.digests
    takeover = next(i for i, s in enumerate(unit.lineage) if story.names[s.signer] != story.victim)
    assert unit.lineage[takeover].from_step >= story.step_before_kill
    measured = [event for name, event in story.events if event.get("event") == "measured" and name == trained_by[1]]
    assert any(event["unit"] == story.lost_unit for event in measured), (
        "a stranger's checkpoint was built on unmeasured"
    )


def test_every_unit_is_complete_and_copied_to_a_node_that_did_not_train_it(story: Story) -> None:
    assert story.end
    assert story.end.complete
    assert all(
        story.curator in unit.providers and story.curator not in unit.holders for unit in story.end.units.values()
    )


@pytest.fixture(scope="module")
def serving(story: Story) -> Any:
    """The curator's home, started again alone: it announces anew what it holds."""
    loop = asyncio.new_event_loop()
    curator = NodeProcess("curator", story.homes / "curator", story.homes / "curator-again.log")

    async def up() -> RunKey:
        await curator.start(str(RunKey(story.key.run)), "--no-train")
        await curator.ready()
        return RunKey(story.key.run, curator.addrs)

    yield loop.run_until_complete(up())
    loop.run_until_complete(curator.end())
    loop.close()


class TestAStranger:
    """What somebody can do later with the run key and one node that is still there."""

    def test_fetches_draws_and_audits(self, story: Story, serving: RunKey, tmp_path: Path) -> None:
        home = ("--home", tmp_path / "home", "--listen", LOOPBACK)
        fetched = paris_node("fetch", serving, "--to", tmp_path / "ensemble", *home, "--json")
        assert fetched.returncode == 0, fetched.stderr
        assert last_json(fetched)["complete"]
        again = paris_node("fetch", serving, "--offline", "--to", tmp_path / "again", *home[:2], "--json")
        assert again.returncode == 0, again.stderr
        assert files_in(tmp_path / "again") == files_in(tmp_path / "ensemble")
        drawn = paris_node(
            "generate",
            tmp_path / "ensemble",
            "red circle of size 9",
            "tiger number 8",
            "--out",
            tmp_path / "g.png",
            "--json",
        )
        assert drawn.returncode == 0, drawn.stderr
        assert all(
            sum(e["weight"] for e in p["experts"]) == pytest.approx(1, abs=0.01) for p in last_json(drawn)["pictures"]
        )
        assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")
        audited = paris_node("audit", serving, *home, "--json")
        report = last_json(audited)
        assert audited.returncode == 0, report
        assert report["audit"] == "ok"
        assert {unit["level"] for unit in report["units"]} == {"consistent"}
        lost = next(unit for unit in report["units"] if unit["unit"] == story.lost_unit)
        assert len({segment["signer"] for segment in lost["lineage"]}) == 2

    def test_flipped_byte_in_own_store_fails_the_audit_with_3_and_heals(self, serving: RunKey, tmp_path: Path) -> None:
        home = ("--home", tmp_path / "home", "--listen", LOOPBACK)
        assert paris_node("audit", serving, *home, "--json").returncode == 0
        flip_a_byte(largest_blob(tmp_path / "home"))
        broken = paris_node("audit", serving, *home, "--json")
        assert broken.returncode == 3
        assert "damaged" in last_json(broken)["audit"]
        assert paris_node("audit", serving, *home, "--json").returncode == 0

    def test_flipped_byte_at_the_only_provider_is_refused_with_3(
        self, story: Story, serving: RunKey, tmp_path: Path
    ) -> None:
        assert story.end
        weights = weights_blob(story.homes / "curator", str(story.end.units["cluster-0"].manifest))
        flip_a_byte(weights)
        fetched = paris_node(
            "fetch", serving, "--to", tmp_path / "e", "--home", tmp_path / "home", "--listen", LOOPBACK, "--json"
        )
        flip_a_byte(weights)
        assert fetched.returncode == 3
        assert last_json(fetched)["error"] == "DigestError"
        assert not (tmp_path / "e").exists()

    def test_light_client_fetches_and_audits_and_refuses_a_flipped_byte_with_3(
        self, story: Story, serving: RunKey, tmp_path: Path
    ) -> None:
        """The same commands in processes that ask the node directly, by the pure-Python libp2p."""
        assert story.end
        home = ("--home", tmp_path / "light", "--light", "--json")
        fetched = paris_node("fetch", serving, "--to", tmp_path / "ensemble", "--down", "1GB/s", *home)
        assert fetched.returncode == 0, fetched.stderr
        assert last_json(fetched)["complete"]
        assert last_json(fetched)["fetched_bytes"] > 0
        audited = paris_node("audit", serving, *home)
        assert audited.returncode == 0, audited.stderr
        assert last_json(audited)["audit"] == "ok"
        assert {unit["level"] for unit in last_json(audited)["units"]} == {"consistent"}
        weights = weights_blob(story.homes / "curator", str(story.end.units["cluster-0"].manifest))
        flip_a_byte(weights)
        refused = paris_node("fetch", serving, "--to", tmp_path / "e", "--home", tmp_path / "new", "--light", "--json")
        flip_a_byte(weights)
        assert refused.returncode == 3
        assert last_json(refused)["error"] == "DigestError"
        assert not (tmp_path / "e").exists()

    def test_attacker_without_validator_changes_nothing_a_stranger_sees(
        self, story: Story, serving: RunKey, tmp_path: Path
    ) -> None:
        """Plain records with a later expiry at every slot, and a forged tip in the name of whoever trained it."""
        assert story.end
        unit = story.end.units["cluster-0"]
        stores = [*plain_wipes(story), forged_tip(story, unit)]
        with attacker(serving, stores) as offered:
            assert offered >= len(stores), "the attacker must have reached somebody"
            audited = paris_node("audit", serving, "--home", tmp_path / "h", "--listen", LOOPBACK, "--json")
        assert audited.returncode == 0, audited.stderr
        assert last_json(audited)["audit"] == "ok"

    def test_wrong_genesis_signature_is_refused_with_3(self, story: Story, tmp_path: Path) -> None:
        """The run key is right, and the bytes are what the key names: only nobody signed them."""
        store = Home(story.homes / "curator").store
        envelope = json.loads(store.get_bytes(story.key.run, 1 << 22))
        signature = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
        signature[10] ^= 1
        envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
        forged = Home(tmp_path).store.put_bytes(strict_json.dumps(envelope))
        started = paris_node("start", RunKey(forged), "--home", tmp_path, "--listen", LOOPBACK, "--json")
        assert started.returncode == 3
        assert last_json(started)["error"] == "SignatureError"

    def test_forged_record_and_lying_statement_are_refused_with_3(self, story: Story) -> None:
        """What the attacker's records meet, as the errors a command would exit with."""
        assert story.end
        forged = bytes.fromhex(forged_tip(story, story.end.units["cluster-0"])["value"])
        with pytest.raises(SignatureError) as refused:
            check_record(forged, time.time(), {})
        assert refused.value.exit_code == 3


ATTACKER = Path(__file__).parent.parent / "protocol" / "peers" / "attacker.py"


@contextmanager
def attacker(key: RunKey, entries: list[dict[str, Any]]) -> Iterator[int]:
    """A hostile DHT node in its own process that has stored its entries at everybody; yields how many it offered."""
    with subprocess.Popen(
        [sys.executable, str(ATTACKER), key.peers[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        process.stdin.write(json.dumps(["store", entries, 1]).encode() + b"\n")
        process.stdin.flush()
        yield json.loads(process.stdout.readline())
        process.stdin.close()


def plain_wipes(story: Story) -> list[dict[str, Any]]:
    """A plain (subkey-less) record for every slot, expiring a day after anything honest."""
    slots = [
        ("peer", ""),
        *((kind, unit) for kind in ("tip", "claim") for unit in ("cluster-0", "cluster-1", "router")),
    ]
    later = time.time() + 3 * 86400
    return [
        {"key": record_key(kind, story.key.run, slot), "value": b"gone".hex(), "expiration": later}
        for kind, slot in slots
    ]


def forged_tip(story: Story, unit: ResolvedUnit) -> dict[str, Any]:
    """A tip in the trainer's name with more steps, signed by somebody else whose keyid claims to be the trainer."""
    now, trainer = int(time.time()), unit.holders[-1]
    tip = Tip(
        run=story.key.run, signer=trainer, seq=now + 1000, iat=now, exp=now + 3600, unit=unit.unit,
        checkpoint=str(unit.checkpoint), manifest=str(unit.manifest), step=unit.step, loss_micro=1,
    )  # fmt: skip
    envelope = json.loads(sign("tip", tip, Identity.from_seed(b"m" * 32)))
    envelope["signatures"][0]["keyid"] = trainer
    return {
        "key": record_key("tip", story.key.run, unit.unit),
        "subkey": public_key_of(trainer).hex(),
        "value": strict_json.dumps(envelope).hex(),
        "expiration": now + 3600,
    }


def largest_blob(home: Path) -> Path:
    return max((home / "store" / "blobs").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)


def weights_blob(home: Path, manifest: str) -> Path:
    store = Home(home).store
    entry = Manifest.from_bytes(store.get_bytes(manifest, 1 << 22)).entry("diffusion_pytorch_model.safetensors")
    path = store.path(entry.sha256)
    assert path
    return path


def flip_a_byte(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
