"""Shards and tables that lie elsewhere: http(s) through the Hub client's resuming download, `hf://` through its cache.

Files are fetched one by one when their turn comes and kept, so that the second pass, a restart and other choices find
them: plan for as much disk as the data have. A file that cannot be fetched ends the pass, because a run made of what
happened to be reachable would be another run.
"""

from __future__ import annotations

import fnmatch
import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import HfFileSystem, hf_hub_download
from huggingface_hub.file_download import http_get
from platformdirs import user_cache_path
from webdataset.shardlists import expand_urls

from paris.protocol.errors import NetworkError, UsageError
from paris.registry import atomic

SCHEMES = ("http://", "https://", "hf://")
CONTINUES = "Check the address and the network, and run the same command again: what was fetched is kept"


@dataclass(frozen=True)
class RemoteFile:
    """A file to be fetched when it is read.

    Attributes:
        url: http, https or hf.
        cache: folder where http files are kept; hf files are in the Hub client's own.
    """

    url: str
    cache: Path

    @property
    def name(self) -> str:
        """Last part of the path, for people and for the suffix."""
        return unquote(urlsplit(self.url).path).rpartition("/")[2]

    def local(self) -> Path:
        """Return where the whole file lies, fetched if it does not yet.

        Raises:
            NetworkError: it cannot be fetched.
        """
        try:
            return self._from_hub() if self.url.startswith("hf://") else self._from_http()
        except Exception as error:
            reason = f"{error}".strip().partition("\n")[0] or type(error).__name__
            raise NetworkError(f"{self.url} cannot be fetched", reason, CONTINUES) from error

    def _from_hub(self) -> Path:
        found = HfFileSystem().resolve_path(self.url)
        return Path(
            hf_hub_download(found.repo_id, found.path_in_repo, repo_type=found.repo_type, revision=found.revision)
        )

    def _from_http(self) -> Path:
        path = self.cache / hashlib.sha256(self.url.encode()).hexdigest()[:16] / self.name
        if not path.is_file():
            part = path.with_name(f"{path.name}.part")
            atomic.make_directory(path.parent)
            with atomic.explained_disk_errors(part), part.open("ab") as out:
                http_get(self.url, out, resume_size=out.tell())
            atomic.sync_file(part)
            atomic.rename(part, path)
        return path


def is_remote(where: str) -> bool:
    """Say whether something names files elsewhere."""
    return where.startswith(SCHEMES)


def open_remote(pattern: str, cache: Path | None = None) -> tuple[RemoteFile, ...]:
    """Return the files of a pattern in order: braces anywhere, `*` and `?` in `hf://` names.

    Args:
        pattern: such as `https://host/shard-{000..099}.tar` or `hf://datasets/owner/name/data/*.tar`.
        cache: where http files are kept; None: this person's cache folder.

    Raises:
        UsageError: a wildcard over http, which has no listing; or nothing on the Hub matches.
        NetworkError: the Hub cannot be asked.
    """
    folder = cache or user_cache_path("paris-node") / "fetched"
    urls: list[str] = []
    for url in expand_urls(pattern):
        if not set(url) & set("*["):
            urls.append(url)
        elif url.startswith("hf://"):
            urls += _on_hub(url)
        else:
            raise UsageError(
                f"{url} has a wildcard, and http has no listing to match it with",
                hint="Name the files, such as 'https://host/shard-{000..099}.tar'",
            )
    return tuple(RemoteFile(url, folder) for url in urls)


def _on_hub(pattern: str) -> list[str]:
    folder, _, name = pattern.rpartition("/")
    try:
        found = HfFileSystem().ls(folder, detail=False)
    except Exception as error:
        reason = f"{error}".strip().partition("\n")[0] or type(error).__name__
        raise NetworkError(f"{folder} cannot be listed", reason, CONTINUES) from error
    matching = sorted(f"hf://{path}" for path in found if fnmatch.fnmatchcase(path.rpartition("/")[2], name))
    if not matching:
        raise UsageError(f"nothing on the Hub matches {pattern}", hint="See the names on the repository's page")
    return matching
