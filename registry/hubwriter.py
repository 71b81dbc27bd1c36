"""Writing to repositories on the Hugging Face Hub: weights first, then one commit that makes all of it visible.

Order: large files are uploaded one by one, which shows nobody anything and is not repeated after a kill; then a single
`create_commit` adds everything that is small, the signed statement and the table of contents among it, and names the
large files. That commit is the commit point: a reader sees all of a checkpoint or none. It is made on the commit whose
table of contents was read (`parent_commit`), so that nobody's entries are lost and nothing is published twice.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_session
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import build_hf_headers

from paris.protocol.digests import sha256_of
from paris.protocol.errors import VerificationError
from paris.registry.huberrors import HubError, answered, explained
from paris.registry.hubindex import INDEX, INDEX_BYTES, Index, Lying, Newest, described

log = logging.getLogger(__name__)

MOST_RACES = 6
"""How often a commit is tried again because somebody else's came first, or because the Hub showed an old state."""
RACE_S = 0.5
RACE, BUSY = frozenset({409, 412}), frozenset({429, 503})
"""Statuses: somebody else was first; the Hub wants a pause."""
MADE_BY_HUB = frozenset({".gitattributes"})
"""What lies in a repository that was only made. Weights that were uploaded without their commit are not seen there."""


@dataclass(frozen=True)
class Change:
    """What one commit shall change.

    Attributes:
        title: Of the commit.
        files: Contents by path: a file on disk for large ones, bytes for small ones.
        units: The checkpoints that become the newest with it.
        repositories: Others of the run to name.
        digests: Digests of files on disk, where known.
        gone: Files to take away, by path.
        seal: Makes the last file, `(path, content)`, from the digests of all others in the repository; None: nothing.
    """

    title: str
    files: Mapping[str, Path | bytes]
    units: Mapping[str, Newest] = field(default_factory=dict)
    repositories: tuple[str, ...] = ()
    digests: Mapping[str, Lying] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    seal: Callable[[Mapping[str, str]], tuple[str, bytes]] | None = None

    def lying(self) -> dict[str, Lying]:
        """What these files are, for the table of contents."""
        return {**{path: lying for path, lying in self.digests.items() if path in self.files}, **described(self.files)}


@dataclass(frozen=True)
class Committed:
    """Where it stands.

    Attributes:
        commit: The Hub's name of the commit that holds it.
        made: Whether this call made it; False: it stood there already.
    """

    repository: str
    commit: str
    made: bool


class HubWriter:
    """Writes with one person's token: HF_TOKEN's, or the one that `hf auth login` keeps. It is never logged.

    Calls block; errors come as `HubError`.

    Args:
        endpoint: Of the Hub; None: HF_ENDPOINT, or huggingface.co.
        token: None: the environment's.
        sleep: Waits for seconds.
        rng: Spreads retries.
        kind: Of its repositories: "model" or "dataset".
        patience_s: Longest pause a busy Hub may ask for that is waited here; 0: the caller waits, if anybody.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
        kind: str = "model",
        patience_s: float = 0.0,
    ) -> None:
        self._endpoint, self._token = endpoint or str(constants.ENDPOINT), token
        self._api = HfApi(endpoint=self._endpoint, token=token, library_name="paris-node")
        self._sleep, self._rng, self._kind, self._patience_s = sleep, rng or random.Random(), kind, patience_s

    def me(self) -> str:
        """The name this token belongs to.

        Raises:
            HubError: there is no token, the Hub does not know it, or does not answer.
        """
        try:
            return str(self._api.whoami()["name"])
        except Exception as error:
            raise explained(error, "this account") from error

    def update(self, repository: str, run: str, change: Callable[[Index], Change | None]) -> Committed:
        """Add to a repository, which is made where it is not there yet.

        Args:
            repository: `owner/name`.
            run: The run it belongs to.
            change: What to change by a table of contents; None: nothing. Asked again when another commit came
                first.

        Raises:
            HubError: the Hub refuses, cannot be reached, or others kept coming first.
        """
        for race in range(MOST_RACES):
            try:
                return self._try(repository, run, change)
            except Exception as error:
                told = explained(error, repository)
                if race == MOST_RACES - 1 or not self._passes(told):
                    raise told from error
                pause_s = told.wait_s + self._rng.uniform(0, RACE_S * 2**race)
                if told.status in BUSY:
                    log.warning("%s: tried again in %.0f s", told.what, pause_s)
            self._sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _passes(self, error: HubError) -> bool:
        """Whether it is worth trying again here."""
        return error.status in RACE or (error.status in BUSY and 0 <= error.wait_s <= self._patience_s > 0)

    def _try(self, repository: str, run: str, change: Callable[[Index], Change | None]) -> Committed:
        head = self._head(repository)
        index = self._index(repository, head, run)
        wanted = change(index)
        if wanted is None:
            return Committed(repository, head, made=False)
        kept = index.without(wanted.gone) if wanted.gone else index
        grown = kept.grown(wanted.lying(), wanted.units, wanted.repositories)
        large = [CommitOperationAdd(p, str(data)) for p, data in wanted.files.items() if isinstance(data, Path)]
        for addition in large:
            self._api.preupload_lfs_files(
                repository, [addition], repo_type=self._kind, num_threads=1, free_memory=False
            )
        small = {p: data for p, data in wanted.files.items() if isinstance(data, bytes)}
        small[INDEX] = grown.to_bytes()
        if wanted.seal:
            every = {path: lying.sha256 for path, lying in grown.files.items()}
            path, content = wanted.seal({**every, INDEX: sha256_of(small[INDEX])})
            small[path] = content
        additions = [*large, *(CommitOperationAdd(path, data) for path, data in small.items())]
        removals = [CommitOperationDelete(path) for path in wanted.gone]
        made = self._api.create_commit(
            repository,
            [*additions, *removals],
            commit_message=wanted.title,
            parent_commit=head,
            repo_type=self._kind,
        )
        return Committed(repository, str(made.oid), made=True)

    def _head(self, repository: str) -> str:
        try:
            return str(self._api.repo_info(repository, repo_type=self._kind).sha)
        except RepositoryNotFoundError:
            self._api.create_repo(repository, exist_ok=True, repo_type=self._kind)
            return str(self._api.repo_info(repository, repo_type=self._kind).sha)

    def _index(self, repository: str, commit: str, run: str) -> Index:
        """The table of contents as of a commit; an empty one where nothing lies but what the Hub itself put there.

        Raises:
            HubError: the repository holds another run, a table that cannot be read, or files without any table: it
                belongs to something else, which must not be written over.
        """
        hint = "give another name"
        kind = "datasets/" if self._kind == "dataset" else ""
        url = f"{self._endpoint}/{kind}{repository}/resolve/{commit}/{INDEX}"
        headers = build_hf_headers(token=self._token, library_name="paris-node")
        answer = get_session().get(url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
        if answer.status_code == 404:
            lying = self._api.list_repo_tree(repository, revision=commit, repo_type=self._kind)
            if foreign := sorted({entry.path for entry in lying} - MADE_BY_HUB):
                why = f"it holds {', '.join(foreign[:3])} and no {INDEX}, so it belongs to something else"
                raise HubError(f"{repository} is not written over", why, hint, lasting=True)
            return Index(run=run)
        if answer.status_code >= 400:
            raise answered(answer.status_code, answer.headers, "", repository)
        try:
            index = Index.from_bytes(answer.content[: INDEX_BYTES + 1])
        except VerificationError as error:
            what = f"the {INDEX} of {repository} cannot be read, so nothing is written to it"
            raise HubError(what, str(error), hint, lasting=True) from error
        if index.run != run:
            raise HubError(f"{repository} holds another run", f"its {INDEX} says {index.run}", hint, lasting=True)
        return index
