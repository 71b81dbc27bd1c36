"""A curator at work: signing with the home's key, publishing what enough curators signed, staying until others have it.

Beside a running node of the same home a curator publishes as a passing client, and that node serves the rest: both
share the store.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from paris.node.announcer import Announcer
from paris.node.clock import now_s
from paris.node.console import err, printable
from paris.node.contributor import PEER_LIFE_S
from paris.node.follower import Follower, Promise, follow
from paris.node.home import Home
from paris.node.jobs import Means
from paris.node.overview import peer_names
from paris.node.peer import Peer, open_peer
from paris.node.session import Place
from paris.node.settings import Settings
from paris.protocol.charter import Charter
from paris.protocol.errors import NetworkError, UsageError, VerificationError
from paris.protocol.identity import Identity
from paris.protocol.records import Head
from paris.protocol.records import Peer as PeerRecord
from paris.protocol.transport import fetch
from paris.registry.atomic import write_bytes
from paris.registry.governance import Governance
from paris.registry.proposals import Proposal, complete
from paris.registry.runkey import RunKey
from paris.registry.selection import describe_head

LOOK_EVERY_S = 2.0
SHORTEST_LIFE_S = 10
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Desk:
    """Where a curator works.

    Attributes:
        peer: This home in the network.
        governance: What is in force.
        me: The home's own key, whatever name the peer goes by.
        serves: Whether this process serves; if not, a running node of the same home does.
        providers: Peers that announced themselves for the run.
    """

    peer: Peer
    governance: Governance
    me: Identity
    serves: bool
    providers: tuple[str, ...]

    @property
    def charter(self) -> Charter:
        """What is in force."""
        return self.governance.charter

    @property
    def memory(self) -> Path:
        """Where this home keeps what it has seen."""
        return self.peer.home.charter(self.charter.run)

    async def own_heads(self) -> list[Head]:
        """Heads this key published that the network still has."""
        found = await self.peer.library.records("head", self.charter.run)
        return [record for record in found if isinstance(record, Head) and record.signer == self.me.peer_id]

    async def admission_in_force(self) -> bytes | None:
        """The admission list the next head has to go on naming, if there is one."""
        named = self.charter.head and self.charter.head.admission
        return await self.peer.library.blob(named, self.providers) if named else None

    async def publish(self, proposal: Proposal, until: int = 0) -> Charter:
        """Store, announce and take over what enough curators signed.

        Args:
            proposal: A whole one.
            until: How long its head is to be renewed from this home, UNIX seconds; 0: not at all.

        Raises:
            SignatureError: It is not whole.
            NetworkError: The network did not keep the head.
        """
        after = complete(proposal, self.charter)
        for blob in proposal.blobs:
            self.peer.home.store.put_bytes(blob)
        self.peer.library.know(after.run, after.rules)
        await self.peer.swarm.publish(after.envelope)
        await self.governance.refresh(now_s(), self.providers)
        if until and after.head:
            Promise(after.head.version, until, after.head.exp - after.head.iat).keep(self.memory)
        return after


@asynccontextmanager
async def open_desk(settings: Settings, key: RunKey) -> AsyncIterator[Desk]:
    """Join the network under the home's name where nobody else has it, and as a passing client beside a running node.

    Raises:
        BootstrapError: nobody answers, and somebody has to: this home does not hold the run.
        UnavailableError: the genesis, or what a head names, is nowhere to be had.
    """
    home = Home(settings.home)
    with ExitStack() as held:
        try:
            held.enter_context(home.locked())
            serves = True
        except UsageError:
            serves = False
        async with open_peer(settings, key, serve=serves) as peer:
            if serves and not peer.tried.answered and not home.store.path(key.run):
                raise peer.tried.error()
            governance = await follow(peer, key.run, (*key.peers, *settings.peers))
            for trouble in governance.troubles:
                err.print(f"passed over: {printable(trouble)}", markup=False)
            names = tuple(await peer_names(peer.library, key.run))
            yield Desk(peer, governance, home.identity(), serves, names)


def read_proposal(file: Path) -> Proposal:
    """A proposal another curator signed.

    Raises:
        UsageError: there is no such file.
        EnvelopeError: it holds something else.
    """
    if not file.is_file():
        raise UsageError(f"there is no file {file}", hint="Give the file another curator's --out has written.")
    return Proposal.parse(file.read_bytes())


def write_proposal(file: Path, proposal: Proposal, *, over: Path | None) -> None:
    """Write a proposal for the next curator.

    Raises:
        UsageError: the file exists and is not the one that was read.
    """
    if file.exists() and (over is None or file.resolve() != over.resolve()):
        why = "it may be somebody's half-signed work"
        raise UsageError(f"{file} exists", why, "Choose another name with --out.")
    write_bytes(file, proposal.to_bytes())


async def stay(desk: Desk, key: RunKey, *, leave: bool, told: Callable[[str], None]) -> None:
    """Serve what was published until told to stop, or, with `leave`, until another peer holds all of it.

    Meanwhile follow, hand on and renew as any node does. Beside a running node of the same home there is nothing to
    stay for.

    Raises:
        NetworkError: our own daemon does not answer.
    """
    if not desk.serves:
        told("the node that runs with this home serves it")
        return
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    announcer = Announcer(key.run, desk.me, desk.peer.swarm.publish, now_s)
    fields = {"addrs": desk.peer.swarm.addrs, "agent": f"paris-node/{version('paris-node')}", "abilities": ["store"]}
    await announcer.keep("peer", "", PeerRecord, PEER_LIFE_S, lambda: fields)
    place = Place(desk.peer, key.run, desk.charter.genesis, Means(threads=1))
    follower = Follower(place, desk.governance, lambda event, **_: told(f"{event}: {describe_head(desk.charter)}"))
    told("waiting until another peer has it" if leave else "serving it; Ctrl-C leaves")
    while not stopped.is_set():
        try:
            if leave and await copied(desk):
                told("another peer has it")
                return
            await follower.look()
        except NetworkError as error:
            told(f"not everything could be read, will try again: {error}")
        await announcer.flush()
        with suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), LOOK_EVERY_S)


async def copied(desk: Desk) -> bool:
    """Whether one other peer serves everything the head in force stands on."""
    charter, swarm = desk.charter, desk.peer.swarm
    named = (charter.head.admission, charter.head.ensemble) if charter.head else ()
    wanted = [*charter.versions[1:], *(digest for digest in named if digest)]
    for name in await peer_names(desk.peer.library, charter.run):
        if name in (desk.me.peer_id, desk.peer.peer_id):
            continue
        try:
            for digest in wanted:
                await fetch.fetch_blob(swarm, digest, [name])
        except (NetworkError, VerificationError):
            continue
        return True
    return False


def lasting_s(text: str) -> int:
    """Seconds from `7d`, `12h`, `30m` or `45s`.

    Raises:
        UsageError: It is no such time, or too short to be of use.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})\s*([smhd])", text.strip())
    seconds = int(found[1]) * _UNITS_S[found[2]] if found else 0
    if seconds < SHORTEST_LIFE_S:
        hint = "Write --life 7d, 12h or 30m."
        raise UsageError(f"{text!r} is no time a head could live", f"at least {SHORTEST_LIFE_S} s", hint)
    return seconds
