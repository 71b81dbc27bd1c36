"""Curators at the command line and in the network: promoting, amending, and what running nodes make of it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from node_support import LOOPBACK, Contributor, last_json, paris_node
from typer.testing import CliRunner

from paris.node.cli.amend import _changes, _differences
from paris.node.cli.app import app
from paris.node.clock import now_s
from paris.node.curator import lasting_s, read_proposal, write_proposal
from paris.node.doctor import curators_finding
from paris.node.follower import Promise
from paris.node.home import Home
from paris.node.overview import in_words
from paris.node.peer import open_peer
from paris.node.settings import Settings
from paris.protocol import envelope
from paris.protocol.charter import Charter
from paris.protocol.curation import Admission
from paris.protocol.errors import EnvelopeError, NetworkError, UsageError
from paris.protocol.identity import Identity
from paris.protocol.records import Claim, Head
from paris.registry.proposals import amend, changed_admission, complete, promote, sign
from paris.registry.runkey import RunKey

sys.path.insert(0, str(Path(__file__).parents[1] / "registry"))
from network_simulator import ANN, BEN, CURATOR, NOW_S, NetworkSimulator, person

RUN = "paris://" + "0" * 64


@pytest.fixture(scope="module")
def charter() -> Charter:
    network = NetworkSimulator()
    return Charter.begin(network.genesis, network.run)


class TestTyping:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("promote", "paris://abc"), "64 hexadecimal digits"),
            (("promote", RUN, "--expert", "router"), "names no checkpoint"),
            (("promote", RUN, "--life", "soon"), "no time a head could live"),
            (("promote", RUN, "--life", "3s"), "no time a head could live"),
            (("promote", RUN, "--cosign", "x.json", "--without", "router"), "what another curator chose"),
            (("amend", RUN, "--admission", "closed"), "there is no admission"),
            (("amend", RUN, "--cosign", "x.json", "--steps", "9"), "what another curator wrote"),
            (("amend", RUN, "--life", "1y"), "no time a head could live"),
        ],
    )
    def test_mistakes_are_named_with_exit_code_2(self, arguments, said, tmp_path) -> None:
        result = CliRunner().invoke(app, ["run", *arguments, "--home", str(tmp_path), "--json"])
        assert result.exit_code == 2, result.output
        assert said in json.loads(result.stdout.splitlines()[-1])["message"]

    @pytest.mark.parametrize(("text", "seconds"), [("7d", 604_800), ("12h", 43_200), (" 30 m", 1800), ("45s", 45)])
    def test_times_as_people_write_them(self, text, seconds) -> None:
        assert lasting_s(text) == seconds

    def test_fetch_names_wishes_that_make_no_sense(self, tmp_path) -> None:
        for wish in (("--policy", "newest"), ("--at", "soon"), ("--policy", "head", "--at", "5")):
            result = CliRunner().invoke(app, ["fetch", RUN, *wish, "--home", str(tmp_path)])
            assert result.exit_code == 2, result.output


class TestFiles:
    def test_a_proposal_goes_from_hand_to_hand(self, charter, tmp_path) -> None:
        file = tmp_path / "proposal.json"
        proposal = sign(promote(charter, {"router": charter.run}, 2, 600, None), charter, CURATOR, NOW_S)
        write_proposal(file, proposal, over=None)
        assert read_proposal(file) == proposal
        with pytest.raises(UsageError, match="exists"):
            write_proposal(file, proposal, over=None)
        write_proposal(file, proposal, over=file)
        with pytest.raises(UsageError, match="there is no file"):
            read_proposal(tmp_path / "other.json")
        file.write_text("[]")
        with pytest.raises(EnvelopeError):
            read_proposal(file)

    @pytest.mark.parametrize("text", ["", "{}", '{"version": 1}', '{"version": "x", "until": 1, "life_s": 1}', "[]"])
    def test_a_promise_nobody_can_read_is_none(self, text, tmp_path) -> None:
        (tmp_path / "promise.json").write_text(text)
        assert Promise.kept(tmp_path) is None
        assert Promise.kept(tmp_path / "nowhere") is None

    def test_a_promise_is_due_at_a_third_of_a_heads_life_until_it_ends(self, tmp_path) -> None:
        Promise(3, NOW_S + 1000, 300).keep(tmp_path)
        promise = Promise.kept(tmp_path)
        assert promise
        head = cast("Head", SimpleNamespace(version=3, exp=NOW_S + 300))
        assert [promise.due(head, NOW_S + at_s) for at_s in (0, 99, 101, 400)] == [False, False, True, True]
        assert not promise.due(cast("Head", SimpleNamespace(version=4, exp=NOW_S + 300)), NOW_S + 200)
        last = cast("Head", SimpleNamespace(version=3, exp=NOW_S + 1000))
        assert not promise.due(last, NOW_S + 900)
        assert not promise.due(head, NOW_S + 1000)


class TestWords:
    def test_what_an_amendment_changes(self, charter) -> None:
        numbers = {"steps": 90, "publish_every": 9, "life_s": 50, "replicas": 3}
        changes = _changes(charter.genesis, numbers)
        board = {"keys": [CURATOR.peer_id, BEN.peer_id], "threshold": 2}
        proposal = amend(charter, CURATOR, NOW_S, changes={**changes, "curators": board})
        lines, new = _differences(charter, proposal)
        assert new.training.expert.steps == 90
        assert new.training.router.steps == charter.genesis.training.router.steps
        assert {"genesis version 2, after 1", "replicas: 2 becomes 3", f"curators keys: with {BEN.peer_id}"} <= {*lines}
        assert "lease life_s: 60 becomes 50" in lines
        assert "training expert steps: 60 becomes 90" in lines
        assert any(line.startswith("mind: the learning rate follows the steps") for line in lines)

    def test_who_comes_and_goes(self, charter) -> None:
        listed = Admission(policy="list", keys=(ANN.peer_id,))
        lines, _ = _differences(charter, amend(charter, CURATOR, NOW_S, admission=listed))
        assert lines == ["admission list 1", "admission: open becomes list", f"admitted: {ANN.peer_id}"]
        out = changed_admission(charter.admission, NOW_S, expel=[ANN.peer_id])
        lines, _ = _differences(charter, amend(charter, CURATOR, NOW_S, admission=out))
        assert lines[1] == f"expelled: {ANN.peer_id}; what it finished until now still counts"
        after = complete(sign(amend(charter, CURATOR, NOW_S, admission=out), charter, CURATOR, NOW_S), charter)
        back = changed_admission(after.admission, NOW_S, admit=[ANN.peer_id])
        lines, _ = _differences(after, amend(after, CURATOR, NOW_S, admission=back))
        assert f"admitted: {ANN.peer_id}" in lines

    def test_what_is_in_force_and_whether_it_has_ended(self, charter) -> None:
        assert in_words(charter, NOW_S) == "everybody may contribute; the curators have promoted nothing"
        out = changed_admission(charter.admission, NOW_S, expel=[ANN.peer_id])
        amended = amend(charter, CURATOR, NOW_S, admission=out, life_s=600)
        after = complete(sign(amended, charter, CURATOR, NOW_S), charter)
        assert "everybody may contribute but 1; no ensemble promoted; the curators' head 1" in in_words(after, NOW_S)
        assert "EXPIRED" not in in_words(after, NOW_S)
        assert "EXPIRED" in in_words(after, NOW_S + 601)
        listed = changed_admission(charter.admission, NOW_S, admit=[ANN.peer_id], policy="list")
        changed = amend(charter, CURATOR, NOW_S, admission=listed, changes={"replicas": 3})
        words = in_words(complete(sign(changed, charter, CURATOR, NOW_S), charter), NOW_S)
        assert words.startswith("genesis version 2; 1 keys may contribute")

    def test_the_doctor_says_what_counts_and_what_is_over(self, charter) -> None:
        def found(of: Charter, now: int, *troubles: str) -> tuple[str, str]:
            finding = curators_finding(cast("Any", SimpleNamespace(charter=of, troubles=list(troubles))), now)
            return finding.verdict, finding.detail

        assert found(charter, NOW_S) == ("ok", in_words(charter, NOW_S))
        amended = amend(charter, CURATOR, NOW_S, changes={"replicas": 3}, life_s=600)
        after = complete(sign(amended, charter, CURATOR, NOW_S), charter)
        assert found(after, NOW_S)[0] == "ok"
        verdict, detail = found(after, NOW_S + 601)
        assert verdict == "warning"
        assert "EXPIRED" in detail
        assert found(after, NOW_S, "nobody serves its list") == (
            "warning", f"{in_words(after, NOW_S)}; nobody serves its list",
        )  # fmt: skip


STEPS = 60


class Story:
    """A curator and a contributor as real processes, and commands as people type them, with peers of their own.

    Commands that come and go run in this process, in a thread: that saves each of them half a minute of imports.
    """

    def __init__(self, homes: Path, key: RunKey) -> None:
        self.homes, self.key = homes, key
        self.curator, self.ada = Contributor("curator", homes), Contributor("ada", homes)

    async def command(self, *arguments: object, home: str = "curator", code: int = 0, listen: bool = True) -> Any:
        where = ("--home", self.homes / home, *(("--listen", LOOPBACK) if listen else ()), "--json")
        typed = [str(argument) for argument in (*arguments, *where)]
        done = await asyncio.to_thread(CliRunner().invoke, app, typed)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout.splitlines()[-1])

    async def process(self, *arguments: object, home: str = "curator") -> Any:
        """A command that stays for a while and listens to signals: it needs a process of its own."""
        where = ("--home", self.homes / home, "--listen", LOOPBACK, "--json")
        done = await asyncio.to_thread(paris_node, *arguments, *where)
        assert done.returncode == 0, done.stderr
        return last_json(done)

    async def fetch(self, name: str, *wish: object, home: str) -> Any:
        return await self.command("fetch", self.key, "--to", self.homes / name, *wish, home=home)


@pytest.fixture
def story(pictures: Path, tmp_path: Path) -> Story:
    return made(pictures, tmp_path, STEPS)


def made(pictures: Path, tmp_path: Path, steps: int) -> Story:
    options = f"--clusters 2 --model micro --steps {steps} --publish-every {steps // 2} --lease 12 --settle 1 --json"
    typed = ["run", "create", str(pictures), *options.split(), "--home", str(tmp_path / "curator")]
    created = CliRunner().invoke(app, typed)
    assert created.exit_code == 0, created.output
    return Story(tmp_path, RunKey.parse(json.loads(created.stdout.splitlines()[-1])["run"]))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_promote_revoke_and_expel_across_processes(story: Story) -> None:
    """A curator promotes, revokes an expert, expels a key; a contributor's node and fetchers follow."""

    async def scene() -> None:
        curator, ada = story.curator, story.ada
        try:
            await curator.start(str(story.key), "--no-train")
            await curator.ready()
            story.key = story.key.with_peers(curator.addrs)
            await ada.start(str(story.key), "--threads", "1")
            await ada.until("complete")

            first = await story.command("run", "promote", story.key, "--top-k", 1)
            assert first["published"]
            assert [unit["step"] for unit in first["units"]] == [STEPS] * 3
            assert (await ada.until("curators"))["head"] == 1
            whole = await story.fetch("whole", home="old user")
            assert (whole["policy"], whole["head"]["version"], list(whole["units"])) == (
                "head", 1, ["cluster-0", "cluster-1", "router"],
            )  # fmt: skip
            proofs = sorted(path.name for path in (story.homes / "whole" / "provenance").iterdir())
            assert {"ensemble.json", "genesis.json", "head.json"} <= {*proofs}
            assert json.loads((story.homes / "whole" / "model_index.json").read_text())["top_k"] == 1

            second = await story.command("run", "promote", story.key, "--without", "cluster-1")
            assert second["head"]["version"] == 2
            lightly = ("fetch", story.key, "--light", "--to", story.homes / "fewer")
            fewer = await story.process(*lightly, home="new user")
            assert (list(fewer["units"]), fewer["head"]["version"]) == (["cluster-0", "router"], 2)
            assert not (story.homes / "fewer" / "expert_1").exists()
            assert json.loads((story.homes / "fewer" / "model_index.json").read_text())["absent"] == [1]
            latest = await story.fetch("latest", "--policy", "latest", "--experts", "1", home="new user")
            assert list(latest["units"]) == ["cluster-1"]
            refused = await story.command(
                "fetch", story.key, "--to", story.homes / "no", "--experts", "1", home="new user", code=4
            )
            assert "cluster-1 is not in the curators' head" in refused["message"]
            alone = await story.command("audit", story.homes / "whole", home="old user", listen=False)
            assert alone["audit"] == "ok"

            amended = await story.command("run", "amend", story.key, "--expel", ada.peer_id)
            assert amended["head"]["version"] == 3
            await asyncio.gather(until_head(ada, 3), until_head(curator, 3))
            await new_claim_is_refused(story, ada)
            status = await story.command("status", story.key, home="old user")
            assert status["head"]["version"] == 3
            assert "everybody may contribute but 1" in status["curators"]
            looked = await story.command("doctor", story.key, home="old user")
            assert status["curators"] in {found["detail"] for found in looked if found["verdict"] == "ok"}
        finally:
            await asyncio.gather(curator.end(), ada.end())

    asyncio.run(scene())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_is_expelled_while_it_trains_stops_and_says_why(pictures: Path, tmp_path: Path) -> None:
    """It publishes what it has, which counts no more, and ends as a node of a key that was never admitted would."""

    async def scene() -> None:
        story = made(pictures, tmp_path, 1_000_000)
        curator, ada = story.curator, story.ada
        try:
            await curator.start(str(story.key), "--no-train")
            await curator.ready()
            story.key = story.key.with_peers(curator.addrs)
            await ada.start(str(story.key), "--threads", "1")
            await ada.until("step", 10)
            amended = await story.command("run", "amend", story.key, "--expel", ada.peer_id)
            assert f"expelled: {ada.peer_id}; what it finished until now still counts" in amended["lines"]
            await ada.until("expelled")
            await asyncio.wait_for(ada.exited(), 120)
            assert "is not admitted to this run" in ada.last["message"]
            assert ada.last["exit_code"] == 3
            kinds = [event.get("event") for event in ada.events]
            assert kinds.index("expelled") < kinds.index("published")
        finally:
            await asyncio.gather(curator.end(), ada.end())

    asyncio.run(scene())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_curators_hand_a_proposal_to_and_fro_and_a_node_follows(tmp_path: Path) -> None:
    """One makes another a curator, and both are needed from now on; a keeper's node picks the new version up."""
    network = NetworkSimulator()
    homes = {"curator": CURATOR, "ben": BEN, "keeper": None}
    for name, identity in homes.items():
        home = Home(tmp_path / name)
        home.store.put_bytes(network.bytes_of(network.run))
        if identity:
            home.save_identity(identity)
    file = tmp_path / "proposal.json"

    async def scene() -> None:
        keeper = Contributor("keeper", tmp_path)
        try:
            await keeper.start(str(RunKey(network.run)), "--no-train")
            await keeper.ready()
            story = Story(tmp_path, RunKey(network.run).with_peers(keeper.addrs))

            async def amend_as(home: str, *options: object, code: int = 0) -> Any:
                return await story.command("run", "amend", story.key, *options, home=home, code=code)

            wanted = ("--curator-add", BEN.peer_id, "--threshold", 2, "--copies", 3)
            dry = await amend_as("curator", *wanted, "--dry-run")
            assert (dry["published"], file.exists()) == (False, False)
            first = await amend_as("curator", *wanted, "--out", file)
            assert (first["waiting_for"], first["signed_by"], first["missing"]) == ("genesis", [CURATOR.peer_id], 1)
            stranger = await amend_as("keeper2", "--cosign", file, code=3)
            assert "may not sign" in stranger["message"]
            second = await amend_as("ben", "--cosign", file)
            assert (second["waiting_for"], second["signed_by"], second["missing"]) == ("head", [BEN.peer_id], 1)
            third = await story.process("run", "amend", story.key, "--cosign", file, "--leave")
            assert (third["published"], third["head"]["genesis_version"], third["head"]["version"]) == (True, 2, 1)
            assert third["head"]["signers"] == sorted([BEN.peer_id, CURATOR.peer_id])
            assert third["until"] == third["head"]["exp"]
            assert (await keeper.until("curators"))["genesis"] == 2
            status = await story.command("status", story.key, home="visitor")
            assert status["curators"].startswith("genesis version 2; everybody may contribute")
        finally:
            await keeper.end()

    Home(tmp_path / "keeper2")
    asyncio.run(scene())


async def until_head(node: Contributor, version: int) -> None:
    """Wait until a node has taken a head over."""
    while not any(event.get("event") == "curators" and event.get("head") == version for event in node.events):
        node._changed.clear()
        await asyncio.wait_for(node._changed.wait(), 120)


async def new_claim_is_refused(story: Story, ada: Contributor) -> None:
    """The running nodes do not take a claim of the expelled key, and a visitor who follows sees none."""
    identity = Identity.from_libp2p((ada.home / "identity.key").read_bytes())
    settings = Settings.load(home=story.homes / "visitor", listen=LOOPBACK)
    async with open_peer(settings, story.key, serve=False) as peer:
        now = now_s()
        fields = {"run": story.key.run, "signer": identity.peer_id, "seq": now + 60, "iat": now, "exp": now + 600}
        claim = envelope.sign("claim", Claim.parse({**fields, "unit": "cluster-0", "step": 0}), identity)
        with pytest.raises(NetworkError, match="the network did not keep our claim"):
            await peer.swarm.publish(claim)
        other = {**fields, "signer": person(77).peer_id}
        honest = envelope.sign("claim", Claim.parse({**other, "unit": "cluster-0", "step": 0}), person(77))
        await peer.swarm.publish(honest)
