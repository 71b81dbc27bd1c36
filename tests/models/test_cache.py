"""The cache is exact, repeatable, and says which shard is cut short or spoiled."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from paris.models.cache import CacheError, LatentCache
from paris.models.files import Rows, write_rows
from paris.models.ingestion import ingest, picture_size
from paris.models.latents import Pixels
from paris.models.shards import ShardError, read_shard


def png(side_px: int = 32, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (side_px, side_px), 255).save(out, "PNG")
    return out.getvalue()


def write_members(path, members: dict[str, bytes]):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sparse(name: str, size_bytes: int) -> bytes:
    """A tar of a few kilobytes whose one member says that it has so many bytes, all of them zero."""
    member = tarfile.TarInfo(name)
    said = {"major": "1", "minor": "0", "name": name, "realsize": str(size_bytes)}
    member.pax_headers = {f"GNU.sparse.{field}": value for field, value in said.items()}
    holes = b"1\n0\n0\n".ljust(512, b"\0")
    member.size = len(holes)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(holes))
    return out.getvalue()


def test_a_shard_that_would_unfold_to_terabytes_is_refused(tmp_path):
    bomb = tmp_path / "bomb.tar"
    member = tarfile.TarInfo("a.png")
    member.size = 2**40
    bomb.write_bytes(member.tobuf())
    with pytest.raises(ShardError, match=r"says that 'a\.png' is larger than it"):
        list(read_shard(bomb))
    bomb.write_bytes(sparse("a.png", 2**40))
    with pytest.raises(ShardError, match="a sparse member"):
        list(read_shard(bomb))
    bomb.write_bytes(gzip.compress(bomb.read_bytes()))
    with pytest.raises(ShardError, match="is not a whole tar"):
        list(read_shard(bomb))


def test_links_do_not_multiply_a_member(tmp_path):
    shard = write_members(tmp_path / "links.tar", {"a.png": png(), "a.json": b'{"caption": "a"}'})
    with tarfile.open(shard, "a") as tar:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.png"
        tar.addfile(link)
    assert [sample.key for sample in read_shard(shard)] == ["a"]


def test_a_header_of_absurd_size_is_a_broken_shard(tmp_path):
    data = bytearray(sparse("a.png", 1))
    data[124:136] = b"%011o\0" % (2**32)
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    (tmp_path / "absurd.tar").write_bytes(data)
    with pytest.raises(ShardError, match="is not a whole tar"):
        list(read_shard(tmp_path / "absurd.tar"))


def test_samples_come_back_with_their_text_and_label(tmp_path, shard, letters):
    cache = ingest([shard], Pixels(), letters, tmp_path / "c.safetensors")
    assert len(cache) == 12
    assert len(cache.texts.mask_BL) == 6  # the null text and five captions
    batch = cache.batch(np.array([7, 0]))
    assert batch.labels_B.tolist() == [1, 0]
    assert torch.allclose(batch.latents_BCHW[1, :, 0, 0], torch.tensor([0, 128, 255]) / 127.5 - 1, atol=1e-3)
    assert torch.equal(batch.text.tokens_BLE[0], letters.encode(["shade 2"]).tokens_BLE[0])
    assert torch.equal(batch.text.mask_BL[0], letters.encode(["shade 2"]).mask_BL[0])


def test_dropped_text_is_the_encoding_of_nothing(tmp_path, shard, letters):
    cache = ingest([shard], Pixels(), letters, tmp_path / "c.safetensors")
    batch = cache.batch(np.array([3, 4]), np.array([True, False]))
    null = letters.encode([""])
    assert torch.equal(batch.text.tokens_BLE[0], null.tokens_BLE[0])
    assert torch.equal(batch.text.pooled_BE[0], null.pooled_BE[0])
    assert batch.text.tokens_BLE[1].any()


def test_equal_shards_give_equal_bytes_and_no_leftovers(tmp_path, make_shard, letters):
    shards = [make_shard(tmp_path / f"{i}.tar", 9, first=9 * i) for i in range(2)]
    for name in ("first", "second"):
        ingest(shards, Pixels(), letters, tmp_path / name / "c.safetensors")
    assert (tmp_path / "first/c.safetensors").read_bytes() == (tmp_path / "second/c.safetensors").read_bytes()
    assert [path.name for path in (tmp_path / "first").iterdir()] == ["c.safetensors"]


class InterruptedHereError(Exception):
    pass


class CountingEncoder:
    """Pixels, counted, that stop where they are told to."""

    kind = "pixels"

    def __init__(self, stop_after: int | None = None) -> None:
        self.encoded, self.stop_after = 0, stop_after

    def encode(self, pictures):
        if self.encoded == self.stop_after:
            raise InterruptedHereError
        self.encoded += len(pictures)
        return pictures.float()


def test_interrupted_ingestion_goes_on_where_it_was_and_makes_the_same_file(tmp_path, make_shard, letters):
    shards = [make_shard(tmp_path / f"{i}.tar", 9, first=9 * i) for i in range(4)]
    out, counts = tmp_path / "out/c.safetensors", []
    with pytest.raises(InterruptedHereError):
        ingest(shards, CountingEncoder(stop_after=18), letters, out)
    assert not out.exists()
    again = CountingEncoder()
    ingest(shards, again, letters, out, counts.append)
    assert again.encoded == 18, "two shards were encoded before"
    assert counts == [9, 18, 27, 36]
    ingest(shards, CountingEncoder(), letters, tmp_path / "whole.safetensors")
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["c.safetensors"]


@pytest.mark.parametrize("changed", ["shard", "side", "damaged"])
def test_parts_of_another_ingestion_are_not_taken_for_this_one(tmp_path, make_shard, letters, changed):
    shards, out = [make_shard(tmp_path / f"{i}.tar", 9) for i in range(2)], tmp_path / "c.safetensors"
    with pytest.raises(InterruptedHereError):
        ingest(shards, CountingEncoder(stop_after=9), letters, out)
    if changed == "shard":
        make_shard(shards[0], 9, first=5)
    if changed == "damaged":
        part = next(tmp_path.glob("*.parts/*"))
        part.write_bytes(part.read_bytes()[:-1])
    again = CountingEncoder()
    ingest(shards, again, letters, out, picture_px=16 if changed == "side" else 32)
    assert again.encoded == 18


def test_a_cut_shard_costs_only_itself(tmp_path, make_shard, letters):
    shards, out = [make_shard(tmp_path / f"{i}.tar", 9) for i in range(2)], tmp_path / "c.safetensors"
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[:4000])
    with pytest.raises(ShardError, match=r"1\.tar"):
        ingest(shards, Pixels(), letters, out)
    shards[1].write_bytes(whole)
    again = CountingEncoder()
    assert len(ingest(shards, again, letters, out)) == 18
    assert again.encoded == 9


def test_the_cache_is_a_safetensors_file_to_others(tmp_path, shard, letters):
    from safetensors.torch import load_file

    ingest([shard], Pixels(), letters, tmp_path / "c.safetensors")
    tensors = load_file(tmp_path / "c.safetensors")
    assert {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()} == {
        "latents": ((12, 3, 32, 32), torch.float16),
        "labels": ((12,), torch.int64),
        "text_index": ((12,), torch.int64),
        "tokens": ((6, 16, 384), torch.float16),
        "mask": ((6, 16), torch.bool),
        "pooled": ((6, 384), torch.float16),
    }


class Loud:
    """Latents that half floats cannot hold."""

    kind = "pixels"

    def encode(self, pictures):
        return pictures * 1e5


def test_latents_beyond_the_dtype_are_named_with_their_sample(tmp_path, shard, letters):
    with pytest.raises(ShardError, match=r"shard\.tar holds a sample '000000' whose latents are not finite"):
        ingest([shard], Loud(), letters, tmp_path / "c.safetensors")
    cache = ingest([shard], Loud(), letters, tmp_path / "c.safetensors", dtype=torch.bfloat16)
    assert cache.latents_NCHW.dtype == torch.bfloat16
    assert cache.batch(np.array([3])).latents_BCHW.dtype == torch.float32


def test_the_side_of_pictures_follows_from_the_codec():
    class Eighth:
        def encode(self, pictures):
            return pictures[..., ::8, ::8]

    assert picture_size(Pixels(), (3, 32, 32)) == (32, None)
    assert picture_size(Eighth(), (4, 32, 32)) == (256, None)
    assert picture_size(Eighth(), (4, 16, 32, 32)) == (256, 16)


def test_frames_of_clips_follow_from_a_codec_that_looks_back():
    class Causal:
        frames_a_latent = 4

        def encode(self, clips):
            return clips[..., ::8, ::8]

    assert picture_size(Causal(), (16, 9, 32, 32)) == (256, 33)


def test_pieces_that_do_not_add_up_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="do not add up"):
        write_rows({"a": Rows(torch.float32, (3, 2), [torch.zeros(2, 2)])}, tmp_path / "a.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_progress_counts_every_sample(tmp_path, make_shard, letters):
    counts: list[int] = []
    ingest([make_shard(tmp_path / "big.tar", 150)], Pixels(), letters, tmp_path / "c.safetensors", counts.append)
    assert counts == [128, 150]


def test_shard_cut_short_anywhere_is_named(tmp_path, shard):
    whole = shard.read_bytes()
    cut = tmp_path / "cut-short.tar"
    for length in range(0, len(whole), 512):
        cut.write_bytes(whole[:length])
        if whole[:length].endswith(bytes(1024)) and not whole[length:].strip(b"\0"):
            continue  # only the padding behind the end mark is missing
        with pytest.raises(ShardError, match=r"cut-short\.tar"):
            list(read_shard(cut))


def test_shard_cut_inside_a_block_is_named(tmp_path, shard):
    cut = tmp_path / "cut-short.tar"
    cut.write_bytes(shard.read_bytes()[:1300])
    with pytest.raises(ShardError, match=r"cut-short\.tar .*Fetch it again"):
        list(read_shard(cut))


def test_cut_shard_leaves_no_cache(tmp_path, shard, letters):
    shard.write_bytes(shard.read_bytes()[:4000])
    with pytest.raises(ShardError):
        ingest([shard], Pixels(), letters, tmp_path / "out/c.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "members",
    [
        {"a.png": png(), "a.json": b"not json"},
        {"a.png": png(), "a.json": b"[]"},
        {"a.png": png(), "a.json": b'{"label": "no caption"}'},
        {"a.png": png(), "a.json": b'{"caption": "x", "cluster": "blue"}'},
        {"a.png": png()},
        {"a.json": b'{"caption": "x"}'},
    ],
)
def test_bad_sample_is_named_with_its_shard(tmp_path, members):
    path = write_members(tmp_path / "spoiled.tar", members)
    with pytest.raises(ShardError, match=r"spoiled\.tar holds a sample 'a'"):
        list(read_shard(path))


def test_picture_that_is_none_is_named_with_its_shard(tmp_path, letters):
    path = write_members(tmp_path / "spoiled.tar", {"a.png": b"GIF? no", "a.json": b'{"caption": "x"}'})
    with pytest.raises(ShardError, match=r"spoiled\.tar holds a sample 'a'"):
        ingest([path], Pixels(), letters, tmp_path / "c.safetensors")


def test_pictures_of_other_sizes_and_modes_are_brought_to_the_side(tmp_path):
    meta = json.dumps({"caption": "x"}).encode()
    path = write_members(tmp_path / "s.tar", {"a.png": png(77, "L"), "a.json": meta, "b.png": png(16), "b.json": meta})
    pixels = [sample.pixels(32) for sample in read_shard(path)]
    assert [p.shape for p in pixels] == [(3, 32, 32)] * 2
    assert all(np.allclose(p, [[[1.0]], [[1.0]], [[1.0]]]) or p.max() <= 1 for p in pixels)


def test_no_sample_at_all_is_explained(tmp_path, letters):
    with pytest.raises(CacheError, match="nothing to train on"):
        ingest([write_members(tmp_path / "s.tar", {})], Pixels(), letters, tmp_path / "c.safetensors")


@pytest.mark.parametrize("data", [b"", b"\0" * 100, None])
def test_damaged_cache_is_explained(tmp_path, data):
    path = tmp_path / "c.safetensors"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CacheError, match="rebuilt from the shards"):
        LatentCache.open(path)
