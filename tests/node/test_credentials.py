"""A rented machine trains under its contributor's name, a lost key's name goes on: as a person would, by commands."""

from __future__ import annotations

import asyncio
import json

import pytest
from node_support import Contributor, last_json, paris_node

from paris.node.credentials import Credentials, accept, held, in_force, lend, move
from paris.node.home import Home
from paris.protocol.curation import Curators
from paris.protocol.errors import EnvelopeError, RecordError, SignatureError, UsageError

RUN = f"sha256:{'1' * 64}"
NOW_S = 1_800_000_000


@pytest.fixture
def homes(tmp_path):
    return [Home(tmp_path / name) for name in ("owner", "node", "thief", "curator")]


def test_a_machine_acts_for_its_contributor_until_the_day(homes):
    owner, node, thief, _ = homes
    given = lend(owner, RUN, node.identity().peer_id, 30, NOW_S)
    assert accept(node, given, NOW_S).name == owner.identity().peer_id
    assert in_force(node, RUN, NOW_S + 29 * 86_400) == given == held(node, RUN)
    with pytest.raises(RecordError, match="not in force"):
        in_force(node, RUN, NOW_S + 30 * 86_400)
    with pytest.raises(SignatureError, match="follows the last"):
        accept(thief, given, NOW_S)
    assert held(thief, RUN).envelopes == ()


def test_a_name_moves_and_the_new_key_lends_it_on(homes):
    owner, node, new, _ = homes
    moved = move(owner, RUN, None, new.identity().peer_id, "a new machine", NOW_S)
    assert accept(new, moved, NOW_S).name == owner.identity().peer_id
    lent = lend(new, RUN, node.identity().peer_id, 7, NOW_S)
    acting = accept(node, lent, NOW_S)
    assert acting.name == owner.identity().peer_id
    assert acting.acting == (node.identity().peer_id, new.identity().peer_id)


def test_the_curators_move_the_name_of_a_stolen_key(homes):
    owner, new, thief, curator = homes
    half = move(curator, RUN, owner.identity().peer_id, new.identity().peer_id, "stolen", NOW_S)
    board = Curators(keys=(curator.identity().peer_id,), threshold=1)
    assert accept(new, half, NOW_S, board).moves[0].by_curators
    alone = move(thief, RUN, owner.identity().peer_id, thief.identity().peer_id, "mine now", NOW_S)
    with pytest.raises(SignatureError, match="both sides"):
        accept(thief, alone, NOW_S, board)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"run":"x","credentials":[]}', f'{{"run":"{RUN}","credentials":[1]}}']
)
def test_a_file_that_holds_no_credentials(text):
    with pytest.raises(EnvelopeError):
        Credentials.parse(text.encode())


def test_an_empty_list_of_credentials(homes):
    with pytest.raises(UsageError, match="no credentials"):
        accept(homes[0], Credentials(RUN), NOW_S)


def test_mistakes_at_the_command_line_are_answered_in_words(tmp_path):
    for arguments, words, code in (
        (("key", "delegate", "paris://zz", "12D3KooWnobody"), "run key", 2),
        (("key", "delegate", f"paris://{'1' * 64}", "12D3KooWnobody"), "peer id", 3),
        (("key", "accept", tmp_path / "nothing"), "no file", 2),
    ):
        done = paris_node(*arguments, "--home", tmp_path / "home")
        assert done.returncode == code, done.stderr
        assert words in " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_listed_run_is_trained_by_a_machine_whose_key_nobody_listed(pictures, tmp_path):
    owner, curator = tmp_path / "owner", tmp_path / "curator"
    name = paris_node("key", "show", "--home", owner).stdout.strip()
    created = last_json(
        paris_node(
            *("run", "create", pictures, "--clusters", 1, "--model", "micro", "--steps", 40, "--publish-every", 20),
            *("--lease", 12, "--settle", 1, "--admit", name, "--home", curator, "--json"),
        )
    )

    async def scene():
        serving, stranger, rented = (Contributor(each, tmp_path) for each in ("curator", "stranger", "rented"))
        try:
            await serving.start(created["run"], "--no-train")
            await serving.ready()
            key = created["run"] + f"?peer={serving.addrs[0]}"
            await stranger.start(key, "--threads", "1")
            await stranger.exited()
            node = paris_node("key", "show", "--home", tmp_path / "rented").stdout.strip()
            lent = paris_node("key", "delegate", created["run"], node, "--home", owner)
            (tmp_path / "lent.json").write_text(lent.stdout)
            taken = last_json(
                paris_node("key", "accept", tmp_path / "lent.json", "--home", tmp_path / "rented", "--json")
            )
            assert taken == {"peer_id": node, "name": name}
            await rented.start(key, "--threads", "1", "--leave")
            await rented.until("complete")
            audited = await asyncio.to_thread(paris_node, "audit", key, "--home", tmp_path / "auditor", "--json")
            return node, last_json(audited), stranger.log.read_text()
        finally:
            await asyncio.gather(*(each.end() for each in (serving, stranger, rented)))

    node, report, refusal = asyncio.run(scene())
    segments = [row for unit in report["units"] for row in unit["lineage"]]
    assert {row["signer"] for row in segments} == {node}
    assert {row["acts_for"] for row in segments} == {name}
    assert "is not admitted" in refusal, json.dumps(refusal)
