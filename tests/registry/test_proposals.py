"""Proposals of curators: made, carried from hand to hand, signed by enough of them, and what they may not do."""

from __future__ import annotations

import dataclasses

import pytest
from governance_support import DAY_S, DEE, FAY, follow
from network_simulator import ANN, CURATOR, EVE, NOW_S, NetworkSimulator

from paris.protocol import envelope
from paris.protocol.curation import Admission
from paris.protocol.digests import sha256_of
from paris.protocol.errors import LineageError, RecordError, SignatureError, UsageError
from paris.protocol.records import Head
from paris.registry.proposals import (
    amend,
    changed_curators,
    check_amends_only,
    check_promotes_only,
    complete,
    promote,
    sign,
)


class TestProposals:
    @pytest.fixture
    def network(self):
        keys = [CURATOR.peer_id, DEE.peer_id, FAY.peer_id]
        return NetworkSimulator(curators={"keys": keys, "threshold": 1})

    @pytest.fixture
    def shared(self, network, library, memory):
        """A run that two of three curators decide about."""
        charter = follow(library, memory).charter
        board = changed_curators(charter.genesis.curators, [], [], 2)
        proposal = amend(charter, CURATOR, NOW_S, changes={"curators": board})
        proposal = sign(sign(proposal, charter, DEE, NOW_S), charter, FAY, NOW_S)
        return complete(proposal, charter)

    def test_two_of_three_promote_in_one_round(self, network, shared):
        units = {"cluster-0": sha256_of(b"a"), "router": sha256_of(b"b")}
        half = sign(promote(shared, units, 2, 600, None), shared, DEE, NOW_S)
        with pytest.raises(SignatureError, match="not signed by enough"):
            complete(half, shared)
        carried = type(half).parse(half.to_bytes())
        assert carried == half
        whole = sign(carried, shared, CURATOR, NOW_S)
        after = complete(whole, shared)
        assert after.ensemble.units == units
        assert (after.head.signer, after.head.top_k, after.floor) == (DEE.peer_id, 2, shared.floor + 1)

    def test_two_of_three_amend_in_two_rounds(self, network, shared):
        admission = Admission(policy="list", keys=(ANN.peer_id,))
        first = amend(shared, CURATOR, NOW_S, admission=admission)
        assert sign(first, shared, CURATOR, NOW_S) == first
        second = sign(first, shared, DEE, NOW_S)
        assert second.head
        with pytest.raises(SignatureError):
            complete(second, shared)
        assert complete(sign(second, shared, FAY, NOW_S), shared).admission == admission

    @pytest.mark.parametrize("part", ["genesis", "listed", "head"])
    def test_strangers_sign_nothing(self, network, shared, part):
        changes = {"replicas": 4}
        proposal = {
            "genesis": lambda: amend(shared, CURATOR, NOW_S, changes=changes),
            "listed": lambda: amend(shared, CURATOR, NOW_S, admission=Admission(policy="list")),
            "head": lambda: promote(shared, {"router": sha256_of(b"r")}, None, 600, None),
        }[part]()
        with pytest.raises(SignatureError, match="may not sign"):
            sign(proposal, shared, EVE, NOW_S)
        if part != "head":
            made = {"changes": changes} if part == "genesis" else {"admission": Admission(policy="list")}
            with pytest.raises(SignatureError, match="may not sign"):
                amend(shared, EVE, NOW_S, **made)

    def test_a_proposal_that_does_not_say_what_it_carries_is_not_signed(self, network, shared):
        """The first signer swaps the ensemble after signing; the second would sign a digest it never saw."""
        half = sign(promote(shared, {"router": sha256_of(b"r")}, None, 600, None), shared, DEE, NOW_S)
        other = promote(shared, {"router": sha256_of(b"evil")}, None, 600, None)
        with pytest.raises(RecordError, match="something else than this proposal"):
            sign(dataclasses.replace(half, ensemble=other.ensemble), shared, FAY, NOW_S)
        with pytest.raises(RecordError, match="another run"):
            sign(dataclasses.replace(half, run=sha256_of(b"x")), shared, FAY, NOW_S)

    def test_nothing_is_signed_along_unseen(self, network, shared):
        """A proposal to amend brings another ensemble along, one to promote an admission list."""
        units = {"router": sha256_of(b"r")}
        admission = Admission(policy="list", keys=(ANN.peer_id,))
        amended, promoting = amend(shared, CURATOR, NOW_S, admission=admission), promote(shared, units, None, 600, None)
        check_amends_only(amended, shared)
        check_promotes_only(promoting, shared)
        for sneaky in ({"ensemble": promoting.ensemble}, {"top_k": 1}):
            with pytest.raises(RecordError, match="changes the ensemble too"):
                check_amends_only(dataclasses.replace(amended, **sneaky), shared)
        versioned = amend(shared, CURATOR, NOW_S, changes={"replicas": 4})
        for sneaky in ({"listed": amended.listed}, {"genesis": versioned.genesis}):
            with pytest.raises(RecordError, match="more than the ensemble"):
                check_promotes_only(dataclasses.replace(promoting, **sneaky), shared)
        listed = complete(sign(sign(amended, shared, DEE, NOW_S), shared, FAY, NOW_S), shared)
        check_promotes_only(promote(listed, units, None, 600, listed_bytes(amended, DEE)), listed)
        with pytest.raises(RecordError, match="more than the ensemble"):
            check_promotes_only(promote(listed, units, None, 600, None), listed)

    def test_a_proposal_from_before_another_was_published_is_stale(self, network, shared):
        half = sign(promote(shared, {"router": sha256_of(b"r")}, None, 600, None), shared, DEE, NOW_S)
        other = sign(promote(shared, {"router": sha256_of(b"s")}, None, 600, None), shared, CURATOR, NOW_S)
        newer = complete(sign(other, shared, FAY, NOW_S), shared)
        with pytest.raises(RecordError, match="the next one is"):
            sign(half, newer, FAY, NOW_S)
        amended = amend(shared, CURATOR, NOW_S, changes={"replicas": 4})
        moved = complete(sign(sign(amended, shared, DEE, NOW_S), shared, FAY, NOW_S), shared)
        with pytest.raises(LineageError, match="does not follow"):
            sign(amended, moved, FAY, NOW_S)

    def test_what_would_be_another_run_or_nothing(self, network, shared):
        with pytest.raises(RecordError, match="changes name"):
            amend(shared, CURATOR, NOW_S, changes={"name": "other"})
        with pytest.raises(UsageError, match="nothing would change"):
            amend(shared, CURATOR, NOW_S)
        with pytest.raises(UsageError, match="is no curator"):
            changed_curators(shared.genesis.curators, [], [EVE.peer_id], None)

    def test_later_heads_of_one_key_expire_later(self, network, shared):
        """The DHT keeps the record that expires last: a shorter head after a longer one would never be seen."""
        units = {"router": sha256_of(b"r")}
        long = complete(
            sign(sign(promote(shared, units, None, DAY_S, None), shared, DEE, NOW_S), shared, FAY, NOW_S), shared
        )
        short = sign(promote(long, {"router": sha256_of(b"s")}, None, 600, None), long, DEE, NOW_S + 5)
        made = Head.parse(envelope.verify(short.head, "head").payload)
        assert (made.exp, made.seq > long.head.seq) == (long.head.exp + 1, True)
        assert made.exp - made.iat <= DAY_S

    @pytest.mark.parametrize("text", [b"[]", b"{}", b'{"run": 1}', b"\xff", b'{"run": "sha256:x"}'])
    def test_files_that_are_no_proposals(self, network, shared, text):
        with pytest.raises(envelope.EnvelopeError):
            type(promote(shared, {"router": sha256_of(b"r")}, None, 1, None)).parse(text)


def listed_bytes(proposal, *signers) -> bytes:
    """The admission list of a proposal with more signatures."""
    data = proposal.listed
    for who in signers:
        data = envelope.cosign(data, "admission", who)
    return data
