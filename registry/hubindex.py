"""What lies in a repository on the Hugging Face Hub: `paris.json`, a table of contents.

    {"v": 1, "run": "sha256:…", "files": {"expert_0/config.json": {"sha256": "sha256:…", "size": 371}, …},
     "units": {"cluster-0": {"checkpoint": "sha256:…", "step": 400}}, "repositories": ["ann/…"]}

It is a hint like everything on the Hub: it says where bytes of a digest may be found, and who reads them checks them.
`units` names the newest checkpoint of every unit in the repository, `repositories` others of the same run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from paris.protocol import strict_json
from paris.protocol.digests import sha256_of
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import name_problem
from paris.protocol.schema import Count, Digest, Extensible, One, Payload, Unit

INDEX: Final = "paris.json"
HUB: Final = "hub"
"""In a tip's `ext`: the repository that holds the checkpoint too."""
INDEX_BYTES: Final = 2 * 2**20
MOST_FILES: Final = 8192
MOST_REPOSITORIES: Final = 256

REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
Repository = Annotated[str, StringConstraints(pattern=f"^{REPOSITORY.pattern}$")]
"""`owner/name` of a model repository."""
Path = Annotated[str, StringConstraints(min_length=1, max_length=LIMITS.name_chars)]


class Lying(Payload):
    """A file by what it holds."""

    sha256: Digest
    size: Count


class Newest(Payload):
    """The newest checkpoint of a unit: digest of its statement, and its step."""

    checkpoint: Digest
    step: Count


class Index(Extensible):
    """A table of contents.

    Attributes:
        run: The run's digest.
        files: What lies where, by path.
        units: The newest checkpoint of every unit published here.
        repositories: Others of the run.
    """

    model_config = ConfigDict(title="Hub index")

    v: One = 1
    run: Digest
    files: dict[Path, Lying] = Field(default_factory=dict, max_length=MOST_FILES)
    units: dict[Unit, Newest] = Field(default_factory=dict)
    repositories: tuple[Repository, ...] = Field(default=(), max_length=MOST_REPOSITORIES)

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if unsafe := next((path for path in self.files if name_problem(path)), None):
            raise ValueError(f"{unsafe!r} is no safe file name: {name_problem(unsafe)}")
        return self

    @classmethod
    def from_bytes(cls, data: bytes) -> Index:
        """Read a table of contents from anywhere.

        Raises:
            EnvelopeError: It is no strict JSON, or too big.
            RecordError: It says something impossible.
        """
        return cls.parse(strict_json.loads(data, INDEX_BYTES))

    def to_bytes(self) -> bytes:
        """The bytes of the file."""
        return strict_json.dumps(self.model_dump(mode="json"))

    def place(self, digest: str) -> tuple[str, int] | None:
        """Path and size in bytes of the file with this digest."""
        return next(((path, file.size) for path, file in self.files.items() if file.sha256 == digest), None)

    def grown(
        self,
        files: Mapping[str, Lying],
        units: Mapping[str, Newest] | None = None,
        repositories: tuple[str, ...] = (),
    ) -> Index:
        """This one with more in it."""
        return Index(
            run=self.run,
            files={**self.files, **files},
            units={**self.units, **(units or {})},
            repositories=tuple(dict.fromkeys((*self.repositories, *repositories)))[:MOST_REPOSITORIES],
        )

    def without(self, paths: Iterable[str]) -> Index:
        """This one without some files, and without the units that have none left."""
        gone = set(paths)
        files = {path: lying for path, lying in self.files.items() if path not in gone}
        folders = {path.partition("/")[0] for path in files}
        units = {unit: newest for unit, newest in self.units.items() if folder_of(unit) in folders}
        return Index(run=self.run, files=files, units=units, repositories=self.repositories)


def described(files: Mapping[str, object]) -> dict[str, Lying]:
    """What the files are that are given as bytes."""
    small = ((path, data) for path, data in files.items() if isinstance(data, bytes))
    return {path: Lying(sha256=sha256_of(data), size=len(data)) for path, data in small}


def folder_of(unit: str) -> str:
    """Where a unit lies in a repository, as in the folder of a `ParisPipeline`."""
    return unit.replace("cluster-", "expert_")
