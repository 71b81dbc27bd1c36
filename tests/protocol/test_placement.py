"""Rendezvous hashing: everybody computes the same keepers, and few copies ever move."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import digest_of, person

from paris.protocol.errors import DigestError
from paris.protocol.placement import FEWEST_WATCHED, keepers, watched

RUN = digest_of("run")
PEERS = tuple(person(number).peer_id for number in range(1, 40))
crowds = st.lists(st.sampled_from(PEERS), unique=True, max_size=20)
copies = st.integers(0, 6)


@given(crowds, copies, st.randoms(use_true_random=False))
def test_the_order_of_peers_does_not_matter(crowd, replicas, random):
    shuffled = list(crowd)
    random.shuffle(shuffled)
    assert keepers(RUN, "router", shuffled, replicas) == keepers(RUN, "router", crowd, replicas)
    assert keepers(RUN, "router", iter([*crowd, *crowd]), replicas) == keepers(RUN, "router", crowd, replicas)


@given(crowds, copies)
def test_as_many_copies_as_asked_for_or_as_there_are_peers(crowd, replicas):
    kept = keepers(RUN, "cluster-0", crowd, replicas)
    assert len(kept) == len(set(kept)) == min(replicas, len(crowd))
    assert set(kept) <= set(crowd)


@given(crowds.filter(len), copies, st.data())
def test_a_peer_that_leaves_moves_only_its_own_copies(crowd, replicas, data):
    gone = data.draw(st.sampled_from(crowd))
    before = keepers(RUN, "cluster-0", crowd, replicas)
    after = keepers(RUN, "cluster-0", [peer for peer in crowd if peer != gone], replicas)
    if gone not in before:
        assert after == before
    else:
        staying = tuple(peer for peer in before if peer != gone)
        assert after[: len(staying)] == staying
        assert len(set(after) - set(before)) <= 1


@given(crowds, copies, st.sampled_from(PEERS))
def test_a_peer_that_joins_displaces_at_most_the_last_keeper(crowd, replicas, newcomer):
    before = keepers(RUN, "cluster-0", crowd, replicas)
    after = keepers(RUN, "cluster-0", [*crowd, newcomer], replicas)
    assert set(before) - set(after) <= set(before[-1:])
    assert set(after) - set(before) <= {newcomer}


@given(crowds, copies)
def test_fewer_copies_are_the_best_of_more(crowd, replicas):
    assert keepers(RUN, "router", crowd, replicas + 1)[:replicas] == keepers(RUN, "router", crowd, replicas)


def test_units_and_runs_spread_over_all_peers():
    load = Counter(peer for k in range(200) for peer in keepers(RUN, f"cluster-{k}", PEERS[:10], 2))
    assert set(load) == set(PEERS[:10])
    assert max(load.values()) < 3 * min(load.values())  # 40 on average; the numbers are fixed by the hash
    assert keepers(RUN, "router", PEERS, 2) != keepers(digest_of("other"), "router", PEERS, 2)


def test_the_score_is_the_one_the_documentation_gives():
    def score(peer):
        return hashlib.sha256(f"{RUN.removeprefix('sha256:')}\0router\0{peer}".encode()).hexdigest()

    assert keepers(RUN, "router", PEERS, 3) == tuple(sorted(PEERS, key=score)[::-1][:3])


def test_no_candidates_keep_nothing():
    assert keepers(RUN, "router", [], 2) == ()


def test_a_run_that_is_no_digest_is_refused():
    with pytest.raises(DigestError):
        keepers("run", "router", PEERS, 2)


def test_in_a_small_run_everybody_watches_everything_and_in_a_crowd_a_few_units():
    units = ["base", *(f"cluster-{number}" for number in range(200)), "router"]
    assert set(watched(RUN, PEERS[0], units, 1)) == set(units)
    crowd = [person(number).peer_id for number in range(300)]
    seen = [watched(RUN, name, units, len(crowd)) for name in crowd]
    assert all("base" in some for some in seen)
    assert max(map(len, seen)) <= FEWEST_WATCHED + 1
    assert {unit for some in seen for unit in some} == set(units), "every unit has somebody who looks after it"
