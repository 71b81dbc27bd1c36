"""The choice of what an ensemble is made of: the curators' head, the newest, a moment, or some experts."""

from __future__ import annotations

import asyncio
import json

import pytest
from governance_support import follow, head, promoted, publish
from network_simulator import BEN, CURATOR, NOW_S, TARGET

from paris.protocol.curation import Admission
from paris.protocol.errors import LineageError, UnavailableError, UsageError
from paris.registry.proposals import (
    amend,
    promote,
)
from paris.registry.resolve import resolve
from paris.registry.selection import HEAD, LATEST, Wish, as_of, choose_policy, moment_s, select


class TestSelection:
    def test_the_head_decides_and_the_revoked_disappear_at_the_next(self, library, network, memory):
        chains = network.train()
        charter = follow(library, memory).charter
        all_units = promoted(network, chains, back=2)
        charter = publish(network, charter, promote(charter, all_units.units, 2, 600, None))
        chosen = asyncio.run(select(library, charter, network.providers, NOW_S))
        assert (chosen.policy, chosen.resolved.top_k) == (HEAD, 2)
        assert {name: unit.checkpoint for name, unit in chosen.resolved.units.items()} == all_units.units
        assert all(unit.step == TARGET // 2 and unit.providers for unit in chosen.resolved.units.values())
        fewer = promoted(network, chains, "cluster-0", "router")
        charter = publish(network, charter, promote(charter, fewer.units, None, 600, None), now_s=NOW_S + 1)
        chosen = asyncio.run(select(library, follow(library, memory).charter, network.providers, NOW_S + 1))
        assert list(chosen.resolved.units) == ["cluster-0", "router"]
        assert "without cluster-1" in chosen.why
        assert json.loads(json.dumps(chosen.why))
        with pytest.raises(UnavailableError, match="cluster-1 is not in the curators' head"):
            asyncio.run(select(library, charter, network.providers, NOW_S, Wish(experts="0,1,router")))
        latest = asyncio.run(select(library, charter, network.providers, NOW_S, Wish(LATEST)))
        assert list(latest.resolved.units) == ["cluster-0", "cluster-1", "router"]
        assert "not the curators' head 2" in latest.why

    def test_without_a_head_the_newest(self, library, network, memory):
        network.train()
        charter = follow(library, memory).charter
        chosen = asyncio.run(select(library, charter, network.providers, NOW_S, Wish(experts="router 1")))
        assert (chosen.policy, list(chosen.resolved.units)) == (LATEST, ["cluster-1", "router"])
        assert "no head of the curators names an ensemble" in chosen.why
        with pytest.raises(UnavailableError, match="have promoted no ensemble"):
            choose_policy(charter, Wish(HEAD), NOW_S)
        bare = charter.adopt(head(network, charter, 1))
        assert choose_policy(bare, Wish(), NOW_S)[0] == LATEST

    def test_a_promoted_checkpoint_that_does_not_verify_is_refused_by_name(self, library, network, memory):
        """Curators may be mistaken: a checkpoint by somebody who never was admitted stays out."""
        chains = network.train()
        charter = follow(library, memory).charter
        only_ben = Admission(policy="list", keys=(BEN.peer_id,))
        charter = publish(network, charter, amend(charter, CURATOR, NOW_S, admission=only_ben))
        proposal = promote(
            charter, promoted(network, chains).units, None, 600, network.bytes_of(charter.head.admission)
        )
        charter = publish(network, charter, proposal, now_s=NOW_S + 1)
        with pytest.raises(LineageError, match=r"of cluster-0 does not hold.*does not admit"):
            asyncio.run(select(library, charter, network.providers, NOW_S))

    def test_lineages_as_they_stood_then(self, library, network):
        network.train()
        unit = asyncio.run(resolve(library, network.run, network.providers)).units["cluster-0"]
        half = TARGET // 2
        assert [as_of(unit, str(step)).step for step in (half - 1, half, TARGET - 1, TARGET)] == [0, half, half, TARGET]
        moments = [NOW_S + half - 1, NOW_S + half, NOW_S + TARGET]
        texts = [governance_time(moment) for moment in moments]
        assert [as_of(unit, text).step for text in texts] == [0, half, TARGET]
        assert as_of(unit, "2027-01-15").step == TARGET
        assert as_of(unit, "2027-01-14").step == 0
        assert as_of(unit, "") is unit

    def test_moments_as_people_write_them(self):
        assert moment_s("2027-01-15T08:00:00Z") == NOW_S
        assert moment_s("2027-01-15T08:00") == NOW_S
        assert moment_s("2027-01-15T09:00+01:00") == NOW_S
        assert moment_s("2027-01-15") == NOW_S + 16 * 3600 - 1

    @pytest.mark.parametrize(
        "wish", [{"policy": "newest"}, {"at": "yesterday"}, {"at": "2026-13-01"}, {"policy": HEAD, "at": "4"}]
    )
    def test_wishes_that_make_no_sense(self, wish):
        with pytest.raises(UsageError):
            Wish(**wish)

    @pytest.mark.parametrize("experts", ["7", "router,moon", "cluster-x"])
    def test_units_the_run_does_not_have(self, network, experts):
        with pytest.raises(UsageError, match="this run has no"):
            Wish(experts=experts).units(network.genesis)


def governance_time(moment: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(moment, UTC).isoformat()
