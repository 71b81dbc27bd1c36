"""Names lent to nodes and moved to new keys; the refusals by bytes are among the golden vectors."""

from __future__ import annotations

import pytest
from protocol_support import NOW_S, curators, delegation, digest_of, person, rotation

from paris.protocol.credentials import Moved, authority, open_rotation
from paris.protocol.errors import ParisError, RecordError, SignatureError
from paris.protocol.limits import LIMITS

RUN = digest_of("run")


def test_a_signer_without_credentials_is_its_own_name():
    assert authority(person(1).peer_id, (), RUN, NOW_S).name == person(1).peer_id


def test_a_rented_machine_of_a_contributor_that_moved_twice():
    first, second, third, node = (person(number) for number in (1, 2, 3, 4))
    chain = (delegation(third, node), rotation(second, third), rotation(first, second))
    acting = authority(node.peer_id, chain, RUN, NOW_S)
    assert acting.name == first.peer_id
    assert acting.acting == (node.peer_id, third.peer_id)
    assert [(moved.old, moved.new) for moved in acting.moves] == [
        (second.peer_id, third.peer_id), (first.peer_id, second.peer_id),
    ]  # fmt: skip


def test_a_chain_out_of_order_or_too_long():
    first, second, node = person(1), person(2), person(4)
    with pytest.raises(SignatureError, match="each credential follows the last"):
        authority(node.peer_id, (rotation(first, second), delegation(second, node)), RUN, NOW_S)
    with pytest.raises(RecordError, match="the limit is 4"):
        authority(node.peer_id, (delegation(second, node),) * (LIMITS.credentials + 1), RUN, NOW_S)


@pytest.mark.parametrize("at_s", [NOW_S - 60 - LIMITS.skew_s, NOW_S, NOW_S + 86_399])
def test_a_delegation_in_force(at_s):
    assert authority(person(4).peer_id, (delegation(person(1), person(4)),), RUN, at_s).name == person(1).peer_id


@pytest.mark.parametrize("at_s", [NOW_S - 61 - LIMITS.skew_s, NOW_S + 86_400, NOW_S + 10**9])
def test_a_delegation_not_in_force(at_s):
    with pytest.raises(RecordError, match="not in force"):
        authority(person(4).peer_id, (delegation(person(1), person(4)),), RUN, at_s)


def test_who_may_move_a_name():
    """The old key alone beside the new one, or two of three curators; nobody else, and nobody without the new one."""
    board, old, new = curators(1, 2, 3, threshold=2), person(4), person(5)
    table = {
        (4, 5): False, (1, 2, 5): True, (1, 3, 5): True, (1, 2, 3, 5): True, (1, 2, 4, 5): True,
        (5,): None, (4,): None, (1, 5): None, (1, 2): None, (1, 2, 4): None, (5, 9): None, (1, 5, 9): None,
    }  # fmt: skip
    for signers, by_curators in table.items():
        data = rotation(old, new, *(person(number) for number in signers))
        if by_curators is None:
            with pytest.raises(SignatureError):
                open_rotation(data, RUN, board)
        else:
            assert open_rotation(data, RUN, board) == Moved(old.peer_id, new.peer_id, by_curators), signers


def test_a_bent_credential_lends_nothing():
    data = delegation(person(1), person(4))
    for place in range(0, len(data), 7):
        bent = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(ParisError):
            authority(person(4).peer_id, (bent,), RUN, NOW_S)
