"""How the loopback Hub answers: endpoints as the `huggingface_hub` client calls them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import hub_xet
from hub_disk import Commit, StoredFile, described, git_blob
from hub_faults import RefusalError

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub

COPY_BYTES = 2**20
NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kind>models|datasets)/{NAME}"
FILES = rf"/(?:(?P<kind>datasets)/)?{NAME}"


class Answer(BaseHTTPRequestHandler):
    """One connection."""

    server: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.path, self.query = unquote(url.path), {key: value[0] for key, value in parse_qs(url.query).items()}
        self._unread, self._chunked = int(self.headers.get("content-length") or 0), False
        self._chunked = self.headers.get("transfer-encoding", "") == "chunked"
        asked = f"{self.command} {self.path}"
        self.server.note(asked)
        self.struck = self.server.faults.of(asked)
        try:
            if any(fault.hang for fault in self.struck):
                self._hold()
            elif fault := next((fault for fault in self.struck if fault.status), None):
                self._body()
                self._send_json({"error": fault.message}, fault.status, fault.headers)
            else:
                self._route()
        except RefusalError as refusal:
            self._body()
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._send_json({"error": refusal.message}, refusal.status, {k: v for k, v in headers.items() if v})

    def _hold(self) -> None:
        self.server.note(f"held {self.command} {self.path}")
        self.server.over.wait()
        self.close_connection = True

    def _route(self) -> None:
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, self.path)
            if found and self.command in method.split("|"):
                answer(
                    self, **{key: value for key, value in found.groupdict().items() if key != "kind"}, **_kind(found)
                )
                return
        raise RefusalError(404, "EntryNotFound", f"no such endpoint: {self.command} {self.path}")

    # Who asks.

    def _user(self) -> str | None:
        header = self.headers.get("authorization", "")
        if not header:
            return None
        token = header.removeprefix("Bearer ")
        self.server.tokens_seen.append((self.path, token))
        if token not in self.server.users:
            raise RefusalError(401, "", "Invalid credentials in Authorization header")
        return self.server.users[token]

    def _readable(self, kind: str, name: str) -> None:
        user, disk = self._user(), self.server.disk
        if not disk.exists(kind, name) or (disk.is_private(kind, name) and user != owner_of(name)):
            raise RefusalError(404 if user else 401, "RepoNotFound", "Repository not found")

    def _writable(self, kind: str, name: str) -> None:
        self._readable(kind, name)
        user = self._user()
        if user is None:
            raise RefusalError(401, "", "Invalid username or password.")
        if user != owner_of(name):
            raise RefusalError(403, "", f"Forbidden: you must have write access to {name}")

    # What is asked.

    def whoami(self) -> None:
        user = self._user()
        if user is None:
            raise RefusalError(401, "", "Invalid username or password.")
        self._send_json({"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}})

    def create(self) -> None:
        asked, user = json.loads(self._body()), self._user()
        if user is None:
            raise RefusalError(401, "", "Invalid username or password.")
        kind = f"{asked.get('type') or 'model'}s"
        name = f"{asked.get('organization') or user}/{asked['name']}"
        if not name.startswith(f"{user}/"):
            raise RefusalError(403, "", f"You don't have the rights to create a model under {owner_of(name)}")
        url = f"{self.server.endpoint}/{'' if kind == 'models' else kind + '/'}{name}"
        with self.server.disk.lock:
            if self.server.disk.exists(kind, name):
                self._send_json({"error": "You already created this model repo", "url": url}, 409)
                return
            self.server.disk.create(kind, name, private=asked.get("visibility") == "private")
        self._send_json({"url": url, "name": name, "id": hashlib.sha1(name.encode()).hexdigest()[:24]})

    def delete(self) -> None:
        asked, user = json.loads(self._body()), self._user()
        kind, name = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or user}/{asked['name']}"
        self._writable(kind, name)
        self.server.disk.delete(kind, name)
        self._send_json({})

    def validate_card(self) -> None:
        self._body()
        self._send_json({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        """For each file: how it is to come, and what lies there now (LFS files by SHA-256, others by git's SHA-1)."""
        self._writable(kind, name)
        files = self._commit(kind, name, revision).files
        answer = []
        for asked in json.loads(self._body())["files"]:
            sample, there = base64.b64decode(asked["sample"]), files.get(asked["path"])
            binary = asked["path"].endswith(".safetensors") or b"\0" in sample or asked["size"] >= 10 * 2**20
            oid = {"oid": there.sha256 if there.lfs else there.blob} if there else {}
            mode = {"uploadMode": "lfs" if binary else "regular", "shouldIgnore": False}
            answer.append({"path": asked["path"], **mode, **oid})
        self._send_json({"files": answer})

    def lfs_batch(self, kind: str, name: str) -> None:
        self._writable(kind, name)
        asked, server = json.loads(self._body()), self.server
        objects = [self._upload_of(item["oid"], item["size"]) for item in asked["objects"]]
        new_bytes = sum(item["size"] for item in objects if "actions" in item)
        stored_bytes = self._stored_bytes(owner_of(name))
        if server.quota_bytes is not None and new_bytes + stored_bytes > server.quota_bytes:
            message = "Storage limit reached, please upgrade your plan to increase your storage limit."
            raise RefusalError(403, "", message)
        self._send_json({"transfer": "basic", "objects": objects})

    def _upload_of(self, oid: str, size: int) -> dict[str, Any]:
        if self.server.disk.has(oid):
            return {"oid": oid, "size": size}
        place, part_bytes = f"{self.server.storage}/lfs/{oid}", self.server.part_bytes
        upload: dict[str, Any] = {"href": f"{place}?size={size}", "header": {}}
        if part_bytes and size > part_bytes:
            parts = -(-size // part_bytes)
            urls = {str(number): f"{place}/part/{number}" for number in range(1, parts + 1)}
            upload = {"href": f"{place}/complete", "header": {"chunk_size": str(part_bytes), **urls}}
        verify = {"href": f"{self.server.endpoint}/lfs/{oid}/verify", "header": {}}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    def _stored_bytes(self, owner: str) -> int:
        folder = self.server.disk._repositories / "models" / owner
        names = [f"{owner}/{path.stem}" for path in folder.glob("*.json")] if folder.is_dir() else []
        files = [f for n in names for c in self.server.disk.commits("models", n) for f in c.files.values() if f.lfs]
        return sum({file.sha256: file.size for file in files}.values())

    def lfs_put(self, oid: str) -> None:
        self._arrive(self.server.disk.object(oid), oid)
        self._send(200, {"ETag": f'"{oid}"'})

    def lfs_put_part(self, oid: str, part: str) -> None:
        digest = self._arrive(self._part(oid, int(part)))
        self._send(200, {"ETag": f'"{digest}"'})

    def lfs_complete(self, oid: str) -> None:
        asked, whole = json.loads(self._body()), self.server.disk.scratch()
        with whole.open("wb") as out:
            for part in asked["parts"]:
                out.write(self._part(oid, part["partNumber"]).read_bytes())
        self._settle(whole, self.server.disk.object(oid), oid, hashlib.sha256(whole.read_bytes()).hexdigest())
        self._send_json({})

    def lfs_verify(self, oid: str) -> None:
        asked, path = json.loads(self._body()), self.server.disk.object(oid)
        if not path.is_file() or path.stat().st_size != asked["size"]:
            raise RefusalError(422, "", "the upload is not whole")
        self._send_json({"message": "Verified"})

    def _part(self, oid: str, number: int) -> Path:
        path = self.server.disk.object(oid)
        return path.with_name(f"{path.name}.part{number}")

    def _arrive(self, path: Path, oid: str = "") -> str:
        """Take a body to a file; a client that hangs up half-way leaves nothing behind."""
        temporary, digest = self.server.disk.scratch(), hashlib.sha256()
        try:
            with temporary.open("wb") as out:
                for chunk in self._chunks():
                    digest.update(chunk)
                    out.write(chunk)
            self._settle(temporary, path, oid, digest.hexdigest())
        finally:
            temporary.unlink(missing_ok=True)
        return digest.hexdigest()

    def _settle(self, temporary: Path, path: Path, oid: str, found: str) -> None:
        if oid and found != oid:
            temporary.unlink()
            raise RefusalError(400, "", "the content does not match its SHA-256")
        temporary.replace(path)

    def commit(self, kind: str, name: str, revision: str) -> None:
        """Apply the operations to the head of the branch, if it is still the one the client started from."""
        lines = [json.loads(line) for line in self._body().splitlines()]
        with self.server.disk.lock:
            self._writable(kind, name)
            head, header = self.server.disk.commits(kind, name)[-1], lines[0]["value"]
            if header.get("parentCommit", head.oid) != head.oid:
                raise RefusalError(412, "", "A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            for line in lines[1:]:
                self._apply(line["key"], line["value"], files)
            made = self.server.disk.append(kind, name, header["summary"], files)
        if any(fault.lost for fault in self.struck):
            self.close_connection = True
            return
        if any(fault.mute for fault in self.struck):
            self._hold()
            return
        url = f"{self.server.endpoint}/{name}/commit/{made.oid}"
        self._send_json({"success": True, "commitOid": made.oid, "commitUrl": url, "pullRequestUrl": None})

    def _apply(self, key: str, value: dict[str, Any], files: dict[str, StoredFile]) -> None:
        path, disk = value["path"], self.server.disk
        match key:
            case "file":
                data = base64.b64decode(value["content"])
                files[path] = StoredFile(disk.keep(data), len(data), git_blob(data), lfs=False)
            case "lfsFile":
                self._from_xet(value["oid"])
                if not disk.has(value["oid"]):
                    raise RefusalError(400, "", f"the LFS object of {path} was never uploaded")
                pointer = (
                    f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {value['size']}\n"
                )
                files[path] = StoredFile(value["oid"], value["size"], git_blob(pointer.encode()), lfs=True)
            case "deletedFile":
                files.pop(path, None)
            case "deletedFolder":
                for inside in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                    files.pop(inside)
            case _:
                raise RefusalError(400, "", f"unknown operation {key}")

    def xet_token(self, kind: str, name: str, _access: str, _revision: str) -> None:
        """Where Xet keeps contents: a folder."""
        self._readable(kind, name)
        self._send_xet_token()

    def own_xet_token(self) -> None:
        self._send_xet_token()

    def _send_xet_token(self) -> None:
        self._send_json({"casUrl": f"local://{self.server.xet}", "accessToken": "none", "exp": 2**33})

    def _from_xet(self, oid: str) -> None:
        """Make a content that came by Xet a plain one."""
        found = None if self.server.disk.has(oid) else hub_xet.known(self.server.xet).get(oid)
        if found:
            temporary = self.server.disk.scratch()
            hub_xet.take_out(f"{self.server.endpoint}/-/xet-token", *found, temporary)
            temporary.replace(self.server.disk.object(oid))

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        self._readable(kind, name)
        commit, name_id = self._commit(kind, name, revision), hashlib.sha1(name.encode()).hexdigest()[:24]
        siblings = [
            {"rfilename": p, "size": f.size, "blobId": f.blob, **({"lfs": _lfs(f)} if f.lfs else {})}
            for p, f in commit.files.items()
        ]
        self._send_json({
            "_id": name_id, "id": name, "modelId": name, "author": owner_of(name), "sha": commit.oid,
            "private": self.server.disk.is_private(kind, name), "gated": False, "disabled": False, "tags": [],
            "downloads": 0, "likes": 0, "siblings": siblings, "createdAt": "2026-01-01T00:00:00.000Z",
            "lastModified": "2026-01-01T00:00:00.000Z",
        })  # fmt: skip

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        self._readable(kind, name)
        commit, inside = self._commit(kind, name, revision), f"{folder.strip('/')}/" if folder else ""
        entries = [described(p, f) for p, f in sorted(commit.files.items()) if p.startswith(inside)]
        folders = sorted({p[: at.start()] for p in commit.files for at in re.finditer("/", p) if p.startswith(inside)})
        listed = [*({"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders), *entries]
        if self.query.get("recursive", "").lower() not in {"1", "true"}:
            listed = [entry for entry in listed if "/" not in entry["path"].removeprefix(inside)]
        self._send_json(listed)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        self._readable(kind, name)
        files = self._commit(kind, name, revision).files
        body = self._body()
        is_form = "json" not in self.headers.get("content-type", "")
        paths = parse_qs(body.decode()).get("paths", []) if is_form else json.loads(body)["paths"]
        self._send_json([described(path, files[path]) for path in paths if path in files])

    def commits(self, kind: str, name: str, revision: str) -> None:
        self._readable(kind, name)
        self._send_json([
            {"id": c.oid, "title": c.title, "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}
            for c in reversed(self.server.disk.commits(kind, name))
        ])  # fmt: skip

    def refs(self, kind: str, name: str) -> None:
        self._readable(kind, name)
        head = self.server.disk.commits(kind, name)[-1].oid
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": head}
        self._send_json({"branches": [branch], "converts": [], "tags": []})

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        """A regular file as it is; an LFS file by a redirect to the storage host."""
        self._readable(kind, name)
        commit = self._commit(kind, name, revision)
        file = commit.files.get(path)
        headers = {"X-Repo-Commit": commit.oid}
        if file is None:
            self._send_json({"error": "Entry not found"}, 404, {**headers, "X-Error-Code": "EntryNotFound"})
            return
        etag = file.sha256 if file.lfs else file.blob
        headers |= {"ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(file.size)}
        if file.lfs:
            place = f"{self.server.storage}/lfs/{file.sha256}/{quote(name)}/{quote(path)}?signed=1"
            self._send(302, {**headers, "Location": place})
        else:
            self._send_file(self.server.disk.object(file.sha256), headers)

    def lfs_get(self, oid: str, path: str) -> None:
        """The storage host. It knows no tokens: its links are signed."""
        if self.headers.get("authorization"):
            raise RefusalError(400, "", "only one auth mechanism allowed")
        if not self.server.disk.has(oid):
            raise RefusalError(404, "EntryNotFound")
        self._send_file(self.server.disk.object(oid), {"ETag": f'"{oid}"'})

    # The test's side.

    def set_faults(self) -> None:
        asked = json.loads(self._body())
        self.server.faults.clear()
        for fault in asked:
            self.server.faults.add(**fault)
        self._send_json({})

    def get_requests(self) -> None:
        self._send_json(self.server.requests)

    def await_request(self) -> None:
        self._send_json(self.server.noted(self.query["match"]))

    # How it travels.

    def _commit(self, kind: str, name: str, revision: str) -> Commit:
        commits = self.server.disk.commits(kind, name)
        if unquote(revision) in {"main", "refs/heads/main"}:
            stale = any(fault.stale for fault in self.struck) and len(commits) > 1
            return commits[-2] if stale else commits[-1]
        for commit in commits:
            if commit.oid == revision:
                return commit
        raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def _body(self) -> bytes:
        return b"".join(self._chunks())

    def _chunks(self) -> Any:
        """The request's body, each part once."""
        while self._unread:
            chunk = self.rfile.read(min(COPY_BYTES, self._unread))
            if not chunk:
                raise ConnectionError("the client hung up")
            self._unread -= len(chunk)
            yield chunk
        while self._chunked:
            size = int(self.rfile.readline().split(b";")[0] or b"0", 16)
            chunk = self.rfile.read(size)
            self.rfile.readline()
            self._chunked = size > 0
            yield chunk

    def _send_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self._body()
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_file(self, path: Path, headers: dict[str, str]) -> None:
        size = path.stat().st_size
        begin, end = _range(self.headers.get("range", ""), size)
        partial = "range" in self.headers
        self.send_response(206 if partial else 200)
        headers = {**headers, "Content-Length": str(end - begin), "Accept-Ranges": "bytes"}
        if partial:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send_bytes(path, begin, end)

    def _send_bytes(self, path: Path, begin: int, end: int) -> None:
        self.wfile.flush()
        truncate = next((fault.truncate for fault in self.struck if fault.truncate is not None), None)
        if any(fault.corrupt for fault in self.struck):
            with path.open("rb") as file:
                file.seek(begin)
                data = bytearray(file.read(end - begin))
            data[len(data) // 2] ^= 1
            self.wfile.write(data)
            return
        if truncate is not None:
            end, self.close_connection = min(end, begin + truncate), True
        with path.open("rb") as file:
            while begin < end:
                begin += os.sendfile(self.connection.fileno(), file.fileno(), begin, end - begin)


def owner_of(name: str) -> str:
    """Who a repository belongs to."""
    return name.partition("/")[0]


def _kind(found: re.Match[str]) -> dict[str, str]:
    groups = found.re.groupindex
    return {"kind": found["kind"] or "models"} if "kind" in groups else {}


def _lfs(file: StoredFile) -> dict[str, Any]:
    return {"sha256": file.sha256, "size": file.size, "pointerSize": 134}


def _range(header: str, size: int) -> tuple[int, int]:
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", header)
    if not found:
        return 0, size
    return int(found[1]), min(size, int(found[2]) + 1) if found[2] else size


REVISION, OID = r"(?P<revision>[^/]+)", r"(?P<oid>[0-9a-f]{64})"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", Answer.whoami),
    ("POST", r"/api/repos/create", Answer.create),
    ("DELETE", r"/api/repos/delete", Answer.delete),
    ("POST", r"/api/validate-yaml", Answer.validate_card),
    ("POST", rf"{API}/preupload/{REVISION}", Answer.preupload),
    ("POST", rf"{API}/commit/{REVISION}", Answer.commit),
    ("GET", rf"{API}/tree/{REVISION}(?:/(?P<folder>.+))?", Answer.tree),
    ("POST", rf"{API}/paths-info/{REVISION}", Answer.paths_info),
    ("GET", rf"{API}/commits/{REVISION}", Answer.commits),
    ("GET", rf"{API}/refs", Answer.refs),
    ("GET", rf"{API}/revision/{REVISION}", Answer.info),
    ("GET", API, Answer.info),
    ("POST", rf"{FILES}\.git/info/lfs/objects/batch", Answer.lfs_batch),
    ("GET|HEAD", rf"{FILES}/resolve/{REVISION}/(?P<path>.+)", Answer.resolve),
    ("PUT", rf"/lfs/{OID}", Answer.lfs_put),
    ("PUT", rf"/lfs/{OID}/part/(?P<part>\d+)", Answer.lfs_put_part),
    ("POST", rf"/lfs/{OID}/complete", Answer.lfs_complete),
    ("POST", rf"/lfs/{OID}/verify", Answer.lfs_verify),
    ("GET|HEAD", rf"/lfs/{OID}/(?P<path>.+)", Answer.lfs_get),
    ("PUT", r"/-/faults", Answer.set_faults),
    ("GET", rf"{API}/xet-(?P<_access>read|write)-token/{REVISION.replace('revision', '_revision')}", Answer.xet_token),
    ("GET", r"/-/xet-token", Answer.own_xet_token),
    ("GET", r"/-/requests", Answer.get_requests),
    ("GET", r"/-/await", Answer.await_request),
]
