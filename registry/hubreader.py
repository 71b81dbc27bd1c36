"""Repositories on the Hugging Face Hub as one more source of blobs: the same bytes by the same digests.

Nothing the Hub says is trusted: what it sends is hashed like what peers send. A repository that sends other bytes is
dropped and named; one that is missing, private or broken is left alone for a while; one that answers 429 or 503 gets
the pause it asks for. Every repository is read at one commit, so that an upload in between mixes nothing up.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

from huggingface_hub import constants, get_async_session
from huggingface_hub.utils import build_hf_headers

from paris.protocol.digests import check
from paris.protocol.errors import NetworkError, ParisError, UnavailableError, VerificationError
from paris.protocol.limits import LIMITS
from paris.protocol.transport.fetch import Failure, LaterError
from paris.protocol.transport.rate import UNLIMITED, Throttle
from paris.protocol.transport.streams import STALL_S
from paris.registry.huberrors import HubError, answered, explained
from paris.registry.hubindex import INDEX, INDEX_BYTES, Index

log = logging.getLogger(__name__)

FRESH_S = 180.0
"""How long a table of contents is taken for new."""
MOST_READ = 64
"""Most repositories of a run that are read: anybody may name one, in an open run as many as there are names."""
LOOK_S = 60.0
"""Longest time to look for news; what has not answered by then is read next time."""
ALONE_S = 600.0
"""How long a repository is left alone that has not what it should."""
UNREACHABLE_S = 60.0
"""How long the Hub is left alone for when it did not answer at all: peers must not wait for it."""
CONNECT_S = 8.0
PAUSE_S = 5.0
"""How long one is, that failed without saying for how long."""
RETRY_S = 1.0
"""How long a request that failed waits, give or take a half, before it is made again."""
AT_ONCE = 8
PATIENCE_S = 30.0
_RETRIES = 4
_USER_AGENT = "paris-node"


@dataclass
class Shelf:
    """One repository, as this node knows it."""

    repository: str
    index: Index | None = None
    commit: str = ""
    read_at_s: float = float("-inf")
    alone_until_s: float = float("-inf")
    trouble: str = ""
    lied: bool = False
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        """What it is called when it is to blame."""
        return f"Hub {self.repository}"


class HubReader:
    """The repositories of one run. Use as `async with HubReader(...)`.

    Args:
        run: The run's digest; repositories of other runs are left out.
        repositories: `owner/name`, those known from the start.
        patience_s: Longest time an answer may take to begin.
        clock: Monotonic seconds.
        rng: Spreads retries.
    """

    def __init__(
        self,
        run: str,
        repositories: Iterable[str] = (),
        *,
        patience_s: float = PATIENCE_S,
        clock: Any = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.run = run
        self._patience_s, self._clock, self._rng = patience_s, clock, rng or random.Random()
        self._shelves: dict[str, Shelf] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        self._client: Any = None
        self.learn(repositories)

    async def __aenter__(self) -> Self:
        self._client = get_async_session()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def learn(self, repositories: Iterable[str]) -> bool:
        """Look into these repositories too from now on; say whether any is new."""
        new = [name for name in dict.fromkeys(repositories) if name and name not in self._shelves]
        room = MOST_READ - len(self._shelves)
        self._shelves |= {name: Shelf(name) for name in new[:room]}
        return bool(new[:room])

    @property
    def troubles(self) -> tuple[str, ...]:
        """What is wrong with repositories, a sentence each."""
        return tuple(f"{shelf.name}: {shelf.trouble}" for shelf in self._shelves.values() if shelf.trouble)

    async def shelves(self, *, patient: bool = True) -> list[Shelf]:
        """The repositories that can be read now, each with its table of contents; links between them are followed.

        Args:
            patient: Ask a busy Hub again until it answers; else it is left alone for as long as it wants.
        """
        looked: set[str] = set()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                while new := [name for name in self._shelves if name not in looked]:
                    looked |= set(new)
                    await asyncio.gather(*(self._look_into(self._shelves[name], patient=patient) for name in new))
                    for name in new:
                        self.learn(self._index(name).repositories if self._shelves[name].index else ())
        return [shelf for shelf in self._shelves.values() if shelf.index and self._is_open(shelf)]

    async def blob(self, digest: str, limit_bytes: int = LIMITS.blob_bytes) -> bytes:
        """A small blob, from the first repository whose bytes have this digest.

        Raises:
            UnavailableError: no repository has it.
        """
        troubles = []
        for shelf in await self.shelves():
            found = self._index(shelf.repository).place(digest)
            if not found:
                continue
            try:
                data, _ = await self._file(shelf, found[0], shelf.commit, limit_bytes)
                check(data, digest, f"what {shelf.name} sent")
            except (NetworkError, VerificationError) as error:
                self.blame(shelf, error)
                troubles.append(str(error))
            else:
                return data
        why = " ".join(troubles or self.troubles) or "no repository on the Hub is known to have it"
        raise UnavailableError(f"{digest} could not be fetched from the Hub", why)

    async def file(self, shelf: Shelf, path: str, limit_bytes: int) -> bytes:
        """A file of a repository by its path, unverified.

        Raises:
            NetworkError: it is not there, or the Hub does not answer.
        """
        return (await self._file(shelf, path, shelf.commit, limit_bytes))[0]

    async def sources(self, digest: str, *, patient: bool = True) -> list[HubSource]:
        """Where a large file can be read piece by piece."""
        shelves = await self.shelves(patient=patient)
        found = ((shelf, self._index(shelf.repository).place(digest)) for shelf in shelves)
        return [HubSource(self, shelf, place[0]) for shelf, place in found if place]

    async def later_sources(self, digest: str) -> list[HubSource]:
        """The same, after the pauses that repositories asked for, where they are short."""
        pauses_s = (shelf.alone_until_s - self._clock() for shelf in self._shelves.values() if not shelf.lied)
        await asyncio.sleep(max((pause_s for pause_s in pauses_s if 0 < pause_s <= self._patience_s), default=0))
        return await self.sources(digest)

    def blame(self, shelf: Shelf, error: ParisError) -> None:
        """Note what went wrong with a repository, and leave it alone for as long as that deserves."""
        if isinstance(error, LaterError):
            wait_s = error.wait_s
        elif isinstance(error, VerificationError):
            log.warning("%s is dropped: %s", shelf.name, error)
            wait_s, shelf.lied = ALONE_S, True
        else:
            status = error.status if isinstance(error, HubError) else -1
            wait_s = UNREACHABLE_S if status == 0 else ALONE_S if 400 <= status < 500 else PAUSE_S
            log.info("%s is left alone for %.0f s: %s", shelf.name, wait_s, error)
        shelf.trouble, shelf.alone_until_s = str(error), self._clock() + wait_s

    def _index(self, repository: str) -> Index:
        index = self._shelves[repository].index
        assert index
        return index

    def _is_open(self, shelf: Shelf) -> bool:
        return not shelf.lied and self._clock() >= shelf.alone_until_s

    async def _look_into(self, shelf: Shelf, *, patient: bool) -> None:
        """Read a repository's table of contents where it may have changed; keep the one before where that fails."""
        async with shelf.reading:
            if self._clock() - shelf.read_at_s < FRESH_S or not self._is_open(shelf):
                return
            try:
                data, commit = await self._file(shelf, INDEX, constants.DEFAULT_REVISION, INDEX_BYTES, patient=patient)
                index = Index.from_bytes(data)
            except (NetworkError, VerificationError) as error:
                self.blame(shelf, error)
                return
            shelf.read_at_s = self._clock()
            if index.run != self.run:
                shelf.trouble, shelf.index = "it holds another run", None
                return
            shelf.index, shelf.commit, shelf.trouble = index, commit, ""

    async def _file(
        self, shelf: Shelf, path: str, revision: str, limit_bytes: int, *, patient: bool = True
    ) -> tuple[bytes, str]:
        """A whole file, and the commit it was read at. A Hub that is busy is asked again."""
        retries = _RETRIES if patient else 0
        for attempt in range(retries + 1):
            try:
                async with self.answer(shelf, self.address(shelf, path, revision), {}) as answer:
                    data = bytearray()
                    async for chunk in answer.aiter_raw():
                        data += chunk
                        if len(data) > limit_bytes:
                            raise NetworkError(f"{shelf.name} sends more than {limit_bytes:,} bytes as {path}")
                    return bytes(data), _commit_of(answer)
            except LaterError as error:
                if attempt == retries or error.wait_s > self._patience_s:
                    raise
                await asyncio.sleep(error.wait_s)
        raise AssertionError("the last attempt returns or raises")

    def address(self, shelf: Shelf, path: str, revision: str) -> str:
        """Where the Hub answers for a file."""
        return f"{constants.ENDPOINT}/{shelf.repository}/resolve/{quote(revision, safe='')}/{quote(path)}"

    @asynccontextmanager
    async def answer(self, shelf: Shelf, url: str, headers: Mapping[str, str]) -> AsyncIterator[Any]:
        """The Hub's good answer to a GET, its body still to come.

        Raises:
            LaterError: the Hub wants a pause.
            HubError: it refuses, or cannot be reached.
        """
        own = url.startswith(f"{constants.ENDPOINT}/")
        asking = build_hf_headers(library_name=_USER_AGENT, token=None if own else False)
        asking |= {"accept-encoding": "identity", **headers}
        timeout = (min(CONNECT_S, self._patience_s), self._patience_s, STALL_S, None)
        try:
            async with self._room, self._client.stream("GET", url, headers=asking, timeout=timeout) as answer:
                self._check(answer, shelf)
                yield answer
        except (ParisError, GeneratorExit):
            raise
        except Exception as error:
            raise explained(error, shelf.repository) from error

    def _check(self, answer: Any, shelf: Shelf) -> None:
        if answer.status_code < 400:
            return
        error = answered(answer.status_code, answer.headers, "", shelf.repository)
        if error.status == 429 or error.status >= 500:
            raise LaterError(error.what, error.wait_s or self._rng.uniform(0.5, 1.5) * RETRY_S)
        raise error


@dataclass(frozen=True)
class HubSource:
    """One file of a repository, as a source of its pieces."""

    reader: HubReader
    shelf: Shelf
    path: str

    @property
    def name(self) -> str:
        """What it is called when it is to blame."""
        return self.shelf.name

    async def open(self, down: Throttle = UNLIMITED) -> HubRanges:
        """Begin to read."""
        return HubRanges(self, down)

    def dropped(self, error: Failure) -> None:
        """Leave the repository alone."""
        self.reader.blame(self.shelf, error)


class HubRanges:
    """Reads ranges of one file, after the first straight from where the Hub sent us.

    Args:
        source: Which file.
        down: What everything fetched has to pass.
    """

    def __init__(self, source: HubSource, down: Throttle) -> None:
        self._source, self._down, self._direct = source, down, ""
        self._buffer = bytearray()

    async def read(self, _digest: str, offset: int, length: int, stall_s: float = STALL_S) -> memoryview:
        """Read a range; see `Ranges.read`."""
        source, shelf = self._source, self._source.shelf
        if self._direct:
            try:
                return await self._range(self._direct, offset, length, stall_s)
            except HubError as error:  # the link has run out: ask the Hub for another
                log.info("%s: %s", source.name, error)
                self._direct = ""
        return await self._range(source.reader.address(shelf, source.path, shelf.commit), offset, length, stall_s)

    async def _range(self, url: str, offset: int, length: int, stall_s: float) -> memoryview:
        source = self._source
        headers = {"range": f"bytes={offset}-{offset + length - 1}"}
        async with source.reader.answer(source.shelf, url, headers) as answer:
            if answer.status_code != 206 and offset:
                raise NetworkError(f"{source.name} does not send parts of files")
            if len(self._buffer) < length:
                self._buffer = bytearray(length)
            data, taken, loop = memoryview(self._buffer)[:length], 0, asyncio.get_running_loop()
            deadline_s = loop.time() + stall_s * (1 + length / LIMITS.write_bytes)
            async for chunk in answer.aiter_raw():
                part = chunk[: length - taken]
                data[taken : taken + len(part)] = part
                taken += len(part)
                before_s = loop.time()
                await self._down.take(len(part))
                deadline_s += loop.time() - before_s
                if loop.time() > deadline_s:
                    raise NetworkError(f"{source.name} sends too slowly")
                if len(part) < len(chunk):
                    break  # more than was asked for; a right answer is read to its end, so that the connection stays
            if taken < length:
                raise NetworkError(f"{source.name} sent {taken} bytes of {length}")
            self._direct = str(answer.url)
            return data

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing stays open between ranges."""


def _commit_of(answer: Any) -> str:
    """The commit an answer was read at: the Hub says it before it sends us elsewhere."""
    for part in (*answer.history, answer):
        if commit := part.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT):
            return str(commit)
    return str(constants.DEFAULT_REVISION)
