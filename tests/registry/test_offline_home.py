"""A home with nobody to ask: what was kept is enough, what is missing is named, what is damaged is refused."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from governance_support import follow, promoted, publish
from network_simulator import ANN, EVE, NOW_S, TARGET, NetworkSimulator
from test_store import flip_a_byte

from paris.models.filenames import WEIGHTS
from paris.protocol.checkpoint import open_checkpoint
from paris.protocol.errors import DigestError, UnavailableError
from paris.registry.assemble import fetch_ensemble
from paris.registry.governance import follow_curators
from paris.registry.library import Library
from paris.registry.offline import ONCE_ONLINE, OfflineNetwork
from paris.registry.proposals import promote
from paris.registry.selection import HEAD, LATEST, Selection, Wish, select
from paris.registry.store import Store

LATER_S = NOW_S + 10 * 86_400
NEWEST = Wish()


class Home:
    """A store, what it remembers of curators, and the two ways to use them."""

    def __init__(self, network: NetworkSimulator, folder: Path) -> None:
        self.network, self.folder = network, folder
        self.store, self.memory = Store(folder / "store"), folder / "charters"

    def fetch(self, wish: Wish = NEWEST, to: str = "ensemble", now_s: float = NOW_S) -> Selection:
        """What `paris-node fetch` does; offline where the wish says so."""
        alone = OfflineNetwork(self.store, self.network.run, lambda: now_s)
        library = Library(self.store, alone if wish.offline else self.network)
        providers = () if wish.offline else self.network.providers

        async def fetched() -> Selection:
            governance = await follow_curators(library, self.network.run, self.memory, now_s, providers)
            selection = await select(library, governance.charter, providers, now_s, wish)
            await fetch_ensemble(library, selection.resolved, self.folder / to, providers)
            return selection

        return asyncio.run(fetched())

    def laid_out(self, to: str = "ensemble") -> dict[str, bytes]:
        folder = self.folder / to
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def steps(self, selection: Selection) -> dict[str, int]:
        return {name: unit.step for name, unit in selection.resolved.units.items()}


@pytest.fixture
def home(network: NetworkSimulator, tmp_path: Path) -> Home:
    return Home(network, tmp_path)


OFFLINE = Wish(offline=True)


def test_what_was_fetched_once_is_laid_out_again_byte_for_byte_days_later(home: Home) -> None:
    """No record lives so long: lineages are chosen by the signed statements that lie in the store."""
    home.network.train()
    home.fetch()
    again = home.fetch(OFFLINE, "again", LATER_S)
    assert again.policy == LATEST
    assert "in this home" in again.why
    assert home.laid_out("again") == home.laid_out()


def test_another_run_in_the_same_store_is_not_mixed_in(home: Home) -> None:
    home.network.train()
    other = Home(NetworkSimulator(name="circles"), home.folder)
    other.network.train(rounds=3)
    for each, to in ((home, "squares"), (other, "circles")):
        each.fetch(to=to)
        each.fetch(OFFLINE, f"{to} again")
        assert each.laid_out(f"{to} again") == each.laid_out(to)


def test_of_two_branches_the_one_that_carries_online_carries_offline(home: Home) -> None:
    home.network.train(["cluster-1", "router"])
    first = home.network.publish(ANN, "cluster-0", 20)
    home.network.publish(ANN, "cluster-0", 40, first, holdout_loss_micro=300_000)
    home.fetch(to="before")
    home.network.publish(EVE, "cluster-0", 60, first, holdout_loss_micro=200_000)
    home.fetch()
    again = home.fetch(OFFLINE, "again")
    assert home.steps(again)["cluster-0"] == 60
    assert home.laid_out("again") == home.laid_out()


def test_a_missing_file_is_named_with_its_unit_and_the_folder_stays(home: Home) -> None:
    chains = home.network.train()
    home.fetch()
    before = home.laid_out()
    home.store.remove(home.network.entry(chains["cluster-1"][-1], WEIGHTS).sha256)
    with pytest.raises(UnavailableError, match=f"cluster-1 at step {TARGET} .* {WEIGHTS} ") as refused:
        home.fetch(OFFLINE)
    assert refused.value.hint == ONCE_ONLINE
    assert home.laid_out() == before


@pytest.mark.parametrize("lost", ["genesis", "statement", "manifest"])
def test_whatever_else_is_missing_is_said_and_nothing_is_laid_out(home: Home, lost: str) -> None:
    checkpoint = home.network.train()["cluster-0"][-1]
    home.fetch()
    manifest = open_checkpoint(home.network.bytes_of(checkpoint)).manifest
    home.store.remove({"genesis": home.network.run, "statement": checkpoint, "manifest": manifest}[lost])
    with pytest.raises(UnavailableError) as refused:
        home.fetch(OFFLINE, "again")
    assert refused.value.hint == ONCE_ONLINE
    assert not home.laid_out("again")


def test_a_damaged_file_is_refused_and_the_folder_stays(home: Home) -> None:
    entry = home.network.entry(home.network.train()["cluster-0"][-1], WEIGHTS)
    home.fetch(to="kept")
    (home.folder / "kept").rename(home.folder / "elsewhere")  # its files are the store's own, by hard links
    path = home.store.path(entry.sha256)
    assert path
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    flip_a_byte(path)
    before = home.laid_out("elsewhere")
    with pytest.raises(DigestError, match="damaged"):
        home.fetch(OFFLINE, "elsewhere")
    assert home.laid_out("elsewhere") == before


def test_a_damaged_statement_is_refused_by_name(home: Home) -> None:
    checkpoint = home.network.train()["cluster-0"][-1]
    home.fetch()
    path = home.store.path(checkpoint)
    assert path
    flip_a_byte(path)
    with pytest.raises(DigestError, match=checkpoint):
        home.fetch(OFFLINE)


def test_a_disk_that_spoiled_weights_accuses_nobody_who_signed_them(home: Home) -> None:
    """All ones in the exponents: no number is finite any more."""
    entry = home.network.entry(home.network.train()["cluster-0"][-1], WEIGHTS)
    home.fetch()
    path = home.store.path(entry.sha256)
    assert path
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-64] + b"\xff" * 64)
    with pytest.raises(DigestError, match="damaged"):
        home.fetch(OFFLINE)


def test_what_is_only_known_of_does_not_hide_what_is_whole(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody looked at the run again, as `status` does: newer statements came, and no files."""
    chain = home.network.train(rounds=4)["cluster-0"]
    home.fetch(Wish(at=str(TARGET // 2)))
    for digest in chain:
        home.store.put_bytes(home.network.bytes_of(digest))
    with caplog.at_level(logging.WARNING):
        again = home.fetch(OFFLINE, "again")
    assert home.steps(again)["cluster-0"] == TARGET // 2
    assert f"cluster-0: step {TARGET} is known here and its weights are not" in caplog.text
    with pytest.raises(UnavailableError, match=f"router at step {TARGET // 4} "):
        home.fetch(Wish(at=str(TARGET // 4), experts="router", offline=True))


def test_a_moment_and_some_experts_are_chosen_offline_too(home: Home) -> None:
    home.network.train(rounds=4)
    wish = {"at": str(TARGET // 2), "experts": "0,router"}
    home.fetch(Wish(**wish))
    home.fetch(to="newest")
    again = home.fetch(Wish(**wish, offline=True), "again")
    assert list(home.steps(again)) == ["cluster-0", "router"]
    assert home.laid_out("again") == home.laid_out()


def test_junk_that_a_stranger_signed_stops_nothing(home: Home) -> None:
    home.network.train()
    home.network.publish(EVE, "cluster-0", TARGET, manifest=home.network.serve(EVE, b"{}"), holdout_loss_micro=900_000)
    home.fetch()
    home.store.put_bytes(b"{}")
    home.fetch(OFFLINE, "again")
    assert home.laid_out("again") == home.laid_out()


def test_an_expired_head_says_so_and_goes_on_naming_what_was_verified(home: Home) -> None:
    chains = home.network.train()
    library = Library(home.store, home.network)
    charter = follow(library, home.memory).charter
    ensemble = promoted(home.network, chains, "cluster-0", "router", back=2)
    publish(home.network, charter, promote(charter, ensemble.units, 1, 600, None))
    assert home.fetch().policy == HEAD
    home.fetch(Wish(LATEST), "latest")
    again = home.fetch(OFFLINE, "again", LATER_S)
    assert again.policy == HEAD
    assert "it has expired, and nobody was asked" in again.why
    assert "without cluster-1" in again.why
    assert home.laid_out("again") == home.laid_out()
    with pytest.raises(UnavailableError, match="expired at"):
        home.fetch(now_s=LATER_S)
    home.fetch(Wish(LATEST, offline=True), "latest again", LATER_S)
    assert home.laid_out("latest again") == home.laid_out("latest")


def test_a_live_head_is_followed_offline_without_a_word_about_its_end(home: Home) -> None:
    chains = home.network.train()
    charter = follow(Library(home.store, home.network), home.memory).charter
    publish(home.network, charter, promote(charter, promoted(home.network, chains).units, 1, 600, None))
    home.fetch()
    again = home.fetch(OFFLINE, "again", NOW_S + 1)
    assert again.policy == HEAD
    assert "expired" not in again.why


def test_a_home_that_knows_nothing_of_a_run_says_what_to_do(home: Home) -> None:
    with pytest.raises(UnavailableError, match="genesis") as refused:
        home.fetch(OFFLINE)
    assert refused.value.hint == ONCE_ONLINE
