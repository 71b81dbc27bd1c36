"""Attacks by files: names that leave their folder, links, files that grow, and weights that are something else.

Each goes through the code that a stranger's file goes through: manifests from the network, the store, the loaders.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import pickle
import struct
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from network_simulator import ANN, PRESET, exported
from safetensors.torch import load, save

from paris.models.checkpoints import CheckpointError, load_export, load_state
from paris.models.dit import DiT
from paris.models.filenames import CONFIG, STATE, WEIGHTS
from paris.models.inspect import check_weights
from paris.models.networks import load_network
from paris.models.published import form_of
from paris.protocol import strict_json
from paris.protocol.digests import sha256_of
from paris.protocol.errors import DigestError, RecordError, UsageError, VerificationError
from paris.protocol.manifest import describe

CONTENT = b"some weights"
ENTRY = describe("x", [CONTENT]).model_dump(mode="json")
HEADER_LIMIT_BYTES = 100_000_000  # of the safetensors format itself


def tree_of(*names: str) -> bytes:
    """A manifest as a hostile peer writes it: our own code would not."""
    return strict_json.dumps({"files": [{**ENTRY, "name": name} for name in sorted(names)], "v": 1})


@pytest.mark.parametrize(
    "names",
    [
        ("../x",), ("a/../../x",), ("..",), (".",), ("/etc/passwd",), ("//host/x",), ("a//x",), ("",),
        ("..\\x",), ("C:\\x",), ("C:x",), ("x\0.txt",), ("x\n",), ("x\u202egnp",), ("con",), ("a/nul.txt",), ("x.",),
        ("e\u0301",), ("X", "x"), ("straße", "STRASSE"), ("a", "a/b"), ("x", "x"),
    ],
)  # fmt: skip
def test_a_name_that_leaves_its_folder_or_means_another_file(library, network, names):
    digest = network.serve(ANN, tree_of(*names))
    with pytest.raises(VerificationError):
        asyncio.run(library.manifest(digest, [ANN.peer_id]))


def test_more_files_than_anybody_needs(library, network):
    digest = network.serve(ANN, tree_of(*(f"{number:04}" for number in range(4097))))
    with pytest.raises(RecordError):
        asyncio.run(library.manifest(digest, [ANN.peer_id]))


def test_a_link_in_the_place_of_a_file_or_folder_is_never_followed(store, tmp_path):
    """Neither into the store, where it would publish somebody's secret, nor out of it, over somebody's folder."""
    secret = tmp_path / "home" / "secret"
    secret.parent.mkdir()
    secret.write_bytes(b"secret")
    for number, target in enumerate((secret, secret.parent)):
        folder = tmp_path / f"tree-{number}"
        folder.mkdir()
        (folder / "weights").symlink_to(target)
        with pytest.raises(UsageError, match="symbolic link"):
            store.add_tree(folder)
    good = tmp_path / "good"
    good.mkdir()
    (good / "weights").write_bytes(CONTENT)
    manifest = store.add_tree(good)
    (tmp_path / "out").symlink_to(secret.parent)
    with pytest.raises(UsageError, match="would be lost"):
        store.checkout(manifest, tmp_path / "out")
    assert secret.read_bytes() == b"secret"


def test_a_hard_link_to_a_stored_file_changes_no_blob(store, tmp_path):
    (tmp_path / "tree").mkdir()
    first, second = tmp_path / "tree" / "first", tmp_path / "tree" / "second"
    first.write_bytes(CONTENT)
    os.link(first, second)
    manifest = store.add_tree(tmp_path / "tree")
    first.write_bytes(b"other weights")
    for entry in manifest.files:
        assert store.verify(entry).read_bytes() == CONTENT


def test_a_hard_link_of_a_checkout_cannot_be_written_through_unnoticed(store, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "x").write_bytes(CONTENT)
    manifest = store.add_tree(tmp_path / "tree")
    laid_out = store.checkout(manifest, tmp_path / "out") / "x"
    laid_out.chmod(0o644)
    laid_out.write_bytes(b"other weights")
    with pytest.raises(DigestError, match="damaged"):
        store.checkout(manifest, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_file_that_grows_while_it_is_read_is_stored_as_it_was_read(store, tmp_path):
    """A pipe grows with every read, and its size is never known before."""
    growing = tmp_path / "growing"
    os.mkfifo(growing)
    chunks = [bytes([number]) * 300_000 for number in range(12)]

    def grow() -> None:
        with growing.open("wb") as out:
            for chunk in chunks:
                out.write(chunk)

    writer = threading.Thread(target=grow)
    writer.start()
    entry = store.put_file(growing, "x")
    writer.join()
    assert store.verify(entry).read_bytes() == b"".join(chunks)


@pytest.mark.parametrize("change", [lambda data: data + b"!", lambda data: data[:-1], lambda _: b""])
def test_a_blob_that_grew_or_shrank_is_neither_returned_nor_laid_out(store, tmp_path, change):
    digest = store.put_bytes(CONTENT)
    path = store.path(digest)
    path.chmod(0o644)
    path.write_bytes(change(CONTENT))
    with pytest.raises(DigestError):
        store.get_bytes(digest, 2**20)
    store.put_bytes(CONTENT)
    assert store.get_bytes(digest, 2**20) == CONTENT


def test_a_blob_that_grew_beyond_its_limit_is_not_read_to_its_end(store):
    digest = store.put_bytes(CONTENT)
    store.path(digest).chmod(0o644)
    with store.path(digest).open("r+b") as grown:
        grown.truncate(2**40)
    with pytest.raises(DigestError, match="too large"):
        store.get_bytes(digest, 2**20)


class Canary:
    """Unpickling it makes a file: whoever loads it has run a stranger's code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def zipped(data: bytes) -> bytes:
    """What `torch.save` writes: an archive with a pickle in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return out.getvalue()


def with_header(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def one(dtype: str = "F32", shape: tuple[int, ...] = (2,), offsets: tuple[int, int] = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BROKEN = {
    "empty": b"",
    "half a length": b"\x08\0\0",
    "header of 100 MB and a byte": struct.pack("<Q", HEADER_LIMIT_BYTES + 1) + b"{",
    "header of 2^64 bytes": b"\xff" * 8 + b"{}",
    "header that is no JSON": with_header(b"{not json"),
    "header of another type": with_header([1, 2, 3]),
    "header nested without end": with_header(b'{"a":' * 100_000),
    "tensor in two places": with_header({"a": one(), "b": one(offsets=(4, 12))}, bytes(12)),
    "two tensors in one place": with_header({"a": one(), "b": one()}, bytes(8)),
    "hole between tensors": with_header({"a": one(), "b": one(offsets=(12, 20))}, bytes(20)),
    "bytes nobody names": with_header({"a": one()}, bytes(4096)),
    "tensor beyond the end": with_header({"a": one(offsets=(0, 2**40), shape=(2**38,))}, bytes(8)),
    "offsets that run backwards": with_header({"a": one(offsets=(8, 0))}, bytes(8)),
    "negative offset": with_header({"a": one(offsets=(-8, 0))}, bytes(8)),
    "shape that overflows": with_header({"a": one(shape=(2**40, 2**40))}, bytes(8)),
    "shape of another size": with_header({"a": one(shape=(3,))}, bytes(8)),
    "unknown dtype": with_header({"a": one("F31")}, bytes(8)),
    "one name twice": with_header(b'{"a":%b,"a":%b}' % ((json.dumps(one()).encode(),) * 2), bytes(8)),
}


@pytest.fixture
def disguised(tmp_path):
    """A pickle that runs code, and the file it would make."""
    canary = tmp_path / "canary"
    return pickle.dumps(Canary(canary)), canary


def refused_by_every_loader(folder: Path, data: bytes) -> None:
    """The audit's look, the loader of weights, and that of training states."""
    network = meta_network()
    shapes = {name: p.shape for name, p in network.state_dict().items()}
    (folder / WEIGHTS).write_bytes(data)
    (folder / STATE).write_bytes(data)
    (folder / CONFIG).write_bytes(exported("cluster-0")[CONFIG])
    assert check_weights(folder / WEIGHTS, dict(PRESET.expert), "expert")
    with pytest.raises(CheckpointError):
        load_export(folder, form_of(network.config), shapes)
    with pytest.raises(CheckpointError):
        load_network(DiT, folder)
    with pytest.raises(CheckpointError):
        load_state(folder, shapes)


def meta_network() -> DiT:
    with torch.device("meta"):
        return DiT(**PRESET.expert)


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_safetensors_file_of_a_broken_form(tmp_path, data):
    refused_by_every_loader(tmp_path, data)


@pytest.mark.parametrize("wrap", [bytes, zipped, with_header], ids=["bare", "zipped", "as header"])
def test_a_pickle_disguised_as_safetensors(tmp_path, disguised, wrap):
    data, canary = disguised
    refused_by_every_loader(tmp_path, wrap(data))
    assert not canary.exists(), "a stranger's code ran"
    pickle.loads(data)
    assert canary.exists(), "the canary would have sung"


def test_a_pickle_beside_missing_weights_is_no_way_out(tmp_path, disguised):
    """Libraries were seen to fall back to unsafe loading where the safe file is missing or broken."""
    data, canary = disguised
    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "diffusion_pytorch_model.ckpt"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / CONFIG).write_bytes(exported("cluster-0")[CONFIG])
    with pytest.raises(CheckpointError):
        load_network(DiT, tmp_path)
    assert not canary.exists()


def respelled(change) -> bytes:
    """Good weights after a change to their tensors."""
    tensors = load(exported("cluster-0")[WEIGHTS])
    change(tensors)
    return save(tensors)


def first_of(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name, tensor in sorted(tensors.items()) if tensor.ndim > 1)


def replaced(make):
    def change(tensors):
        name = first_of(tensors)
        tensors[name] = make(tensors[name])

    return change


WRONG = {
    "one NaN": replaced(lambda t: t.flatten().index_fill(0, torch.tensor([t.numel() - 1]), float("nan")).view_as(t)),
    "one infinity": replaced(lambda t: t.flatten().index_fill(0, torch.tensor([0]), float("inf")).view_as(t)),
    "transposed": replaced(lambda t: t.transpose(0, 1).contiguous() if t.shape[0] != t.shape[1] else t[:1]),
    "flattened": replaced(torch.flatten),
    "one row more": replaced(lambda t: torch.cat([t, t[:1]])),
    "complex": replaced(lambda t: t.to(torch.complex64)),
    "float64": replaced(lambda t: t.double()),
    "int8": replaced(lambda t: t.to(torch.int8)),
    "bool": replaced(lambda t: t > 0),
    "a tensor missing": lambda tensors: tensors.pop(first_of(tensors)),
    "a tensor too many": lambda tensors: tensors.update(extra=torch.ones(1)),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_weights_of_another_shape_or_dtype_or_not_finite(tmp_path, change):
    """An audit names the fault; what draws or trains refuses the file, and never dies of it."""
    (tmp_path / WEIGHTS).write_bytes(respelled(change))
    (tmp_path / CONFIG).write_bytes(exported("cluster-0")[CONFIG])
    assert len(check_weights(tmp_path / WEIGHTS, dict(PRESET.expert), "expert")) == 1
    with pytest.raises(CheckpointError):
        load_network(DiT, tmp_path)


def test_another_files_pieces_under_a_signed_digest(library, network):
    """A manifest may list the pieces of one file under the digest of another; the whole is hashed all the same."""
    evil = b"evil weights"
    honest = {**ENTRY, "size": len(evil), "pieces": [sha256_of(evil)]}
    digest = network.serve(ANN, strict_json.dumps({"files": [honest], "v": 1}))
    with pytest.raises(RecordError, match="one piece"):
        asyncio.run(library.manifest(digest, [ANN.peer_id]))
