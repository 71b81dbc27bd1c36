"""The data pipeline: memory by size, a run that is killed and goes on, and what a picture costs.

    python -m benchmarks.pipeline memory --samples 10000 100000 1000000
    python -m benchmarks.pipeline resume --pictures 10000
    python -m benchmarks.pipeline rates --pictures 400

Each adds its part to benchmarks/results/pipeline.json. Costs are seconds of CPU, which other work on the machine moves
little; docs/data.md extrapolates from them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from paris.models.text import open_text_encoder
from paris.registry.encoders import Pixels, open_image_encoder
from paris.registry.looks import frames_of
from paris.registry.preparation import SURVEY, Wanted, prepare
from paris.registry.samples import Candidate, Part, Rejects

RESULT = Path(__file__).parent / "results" / "pipeline.json"
PART = 10_000
COLOURS = ("red", "green", "blue", "yellow", "grey", "orange", "pink", "brown")
THINGS = ("fox", "boat", "castle", "apple", "train", "flower", "mountain", "street", "cup", "horse", "bridge", "cat")
DEADLINE_S = 3600


@dataclass(frozen=True)
class Synthetic:
    """Tiny pictures, each another one, made when they are asked for."""

    samples: int
    name: str = "synthetic"
    license: str = "CC0-1.0"
    split_key: str = "key"

    def parts(self, _rejects: Rejects) -> Iterator[Part]:
        return (_Some(start, min(self.samples, start + PART)) for start in range(0, self.samples, PART))


@dataclass(frozen=True)
class _Some:
    start: int
    stop: int

    def candidates(self, _rejects: Rejects) -> Iterator[Candidate]:
        for number in range(self.start, self.stop):
            digest = hashlib.sha256(str(number).encode()).digest()
            colour, thing = digest[0] % len(COLOURS), digest[1] % len(THINGS)
            base = (32 * colour, 20 * thing, digest[2])
            out = io.BytesIO()
            Image.fromarray(np.frombuffer(digest[:12], np.uint8).reshape(2, 2, 3) // 8 + np.uint8(base)).save(
                out, "PNG"
            )
            caption = f"a {COLOURS[colour]} {THINGS[thing]}, number {number}"
            yield Candidate(f"s/{number:09d}", out.getvalue(), {"caption": caption})


def memory(samples: int) -> dict[str, Any]:
    """One preparation, measured from within: to be run in a process of its own."""
    text, peak_kb, stages = open_text_encoder("minilm", "all-MiniLM-L6-v2", 16), 0, dict[str, list[float]]()
    before_mb = _anonymous_kb() / 1024

    def progress(stage: str, _done: int, _total: int) -> None:
        nonlocal peak_kb
        peak_kb = max(peak_kb, _anonymous_kb())
        stages.setdefault(stage, [time.process_time()]).append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        work, started = Path(folder), time.monotonic()
        made = prepare(Synthetic(samples), 8, Wanted("pixels"), text, work / "work", work / "cache", progress)
        on_disk = {"survey": _size_mb(work / "work" / SURVEY), "cache": _size_mb(work / "cache")}
    return {
        "samples": samples,
        "groups": len(made.survey.groups),
        "anonymous_mb_before": round(before_mb),
        "anonymous_mb_peak": round(peak_kb / 1024),
        "resident_mb_peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "cpu_s": round(time.process_time(), 1),
        "wall_s": round(time.monotonic() - started, 1),
        "cpu_s_by_stage": {stage: round(times[-1] - times[0], 1) for stage, times in stages.items()},
        "disk_mb": on_disk,
    }


def _anonymous_kb() -> int:
    """What cannot be written back to a file: resident memory less the mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0])


def _size_mb(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


def resume(pictures: int) -> dict[str, Any]:
    """A folder of pictures becomes a run in one command: undisturbed, and killed again and again at several points."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broken = _folder_of_pictures(folder / "pictures", pictures)
        started = time.monotonic()
        calm = _create(folder / "pictures", folder / "calm")
        whole_s = time.monotonic() - started
        kills = []
        for share in (0.15, 0.3, 0.45, 0.6, 0.75, 0.9):
            killed = _create(folder / "pictures", folder / "killed", kill_after_s=share * whole_s)
            kills.append({"after_s": round(share * whole_s, 1), "was_killed": killed is None})
        resumed_at = time.monotonic()
        again = _create(folder / "pictures", folder / "killed")
        assert calm is not None
        assert again is not None
        return {
            "pictures": pictures,
            "wall_s": round(whole_s, 1),
            "kills": kills,
            "last_call_wall_s": round(time.monotonic() - resumed_at, 1),
            "data_digest": calm["data"],
            "equal_digests": calm["data"] == again["data"] and calm["clusters"] == again["clusters"],
            "samples": calm["samples"] + calm["holdout_samples"],
            "corrupted_file": broken,
            "left_out": calm["left_out"],
        }


def _folder_of_pictures(folder: Path, count: int) -> str:
    """`count` pictures of 64 pixels with captions beside them, one of them cut short; returns its name."""
    random = np.random.default_rng(0)
    for number in range(count):
        sub = folder / f"{number // 500:03d}"
        sub.mkdir(parents=True, exist_ok=True)
        colour, thing = number % len(COLOURS), number // len(COLOURS) % len(THINGS)
        small = random.integers(0, 255, (4, 4, 3), dtype=np.uint8) // 3 + np.uint8([20 * colour, 14 * thing, 90])
        Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(sub / f"{number:05d}.jpg", quality=85)
        (sub / f"{number:05d}.txt").write_text(f"a {COLOURS[colour]} {THINGS[thing]}, number {number}")
    broken = folder / "000" / "00042.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    return str(broken.relative_to(folder))


def _create(pictures: Path, home: Path, kill_after_s: float | None = None) -> dict[str, Any] | None:
    """Run the command; None if it was killed before it ended."""
    command = [
        sys.executable,
        "-m",
        "paris.node",
        "run",
        "create",
        str(pictures),
        "--model",
        "micro",
        "--clusters",
        "8",
    ]
    options = ["--home", str(home), "--json", "--features", "text+pixels"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            answer, _ = process.communicate(timeout=kill_after_s or DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return None
    created: dict[str, Any] = json.loads(answer)
    return created


def rates(pictures: int, side_px: int = 512) -> dict[str, Any]:
    """Milliseconds of CPU a picture of realistic size takes in each step, one thread."""
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    base = random.integers(0, 255, (side_px // 8, side_px // 8, 3), dtype=np.uint8)
    encoded = []
    for _ in range(8):
        out = io.BytesIO()
        noise = Image.fromarray(random.permutation(base)).resize((side_px, side_px), Image.Resampling.BICUBIC)
        noise.save(out, "JPEG", quality=88)
        encoded.append(out.getvalue())
    some = [encoded[number % 8] for number in range(pictures)]
    found: dict[str, Any] = {"side_px": side_px, "bytes": round(float(np.mean([len(one) for one in encoded])))}
    found["decode_ms"], frames = _cpu_ms(lambda: [frames_of(one) for one in some], pictures)
    pixels = Pixels()
    prepare_ = lambda encoder: [encoder.prepare(one, data) for one, data in zip(frames, some, strict=True)]  # noqa: E731
    found["pixels_ms"], _ = _cpu_ms(lambda: prepare_(pixels), pictures)
    text = open_text_encoder("minilm", "all-MiniLM-L6-v2", 16)
    captions = [f"a photograph of a {COLOURS[n % 8]} {THINGS[n % 12]} in the evening, number {n}" for n in range(512)]
    found["text_ms"], _ = _cpu_ms(lambda: text.encode(captions), 512)
    try:
        mobilenet = open_image_encoder("mobilenet", _mobilenet_weights())
        found["mobilenet_ms"], _ = _cpu_ms(lambda: mobilenet.encode(prepare_(mobilenet)), pictures)
    except Exception as error:  # noqa: BLE001 - its weights come from a package nothing depends on
        found["mobilenet_ms"] = f"not measured: {error}"
    found["dinov2_large_ms"] = _dinov2_ms()
    found["sha256_ms"], _ = _cpu_ms(lambda: [hashlib.sha256(one).digest() for one in some], pictures)
    return found


def _mobilenet_weights() -> dict[str, str]:
    return {"mobilenet": os.environ["MOBILENET"]} if "MOBILENET" in os.environ else {}


def _dinov2_ms(pictures: int = 4) -> float:
    """A network of DINOv2 ViT-L/14's size with random weights: they take as long as the published ones."""
    network = Dinov2Model(Dinov2Config(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, patch_size=14))
    with torch.no_grad():
        seen_ms, _ = _cpu_ms(lambda: network.eval()(pixel_values=torch.zeros(pictures, 3, 224, 224)), pictures)
    return seen_ms


def _cpu_ms(work: Any, count: int) -> tuple[float, Any]:
    started = time.process_time()
    result = work()
    return round((time.process_time() - started) / count * 1000, 3), result


def _in_a_process(samples: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.pipeline", "memory-child", "--samples", str(samples)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=4 * DEADLINE_S).stdout
    measured: dict[str, Any] = json.loads(answer)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "memory-child", "resume", "rates"])
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--pictures", type=int, default=10_000)
    asked = parser.parse_args()
    if asked.what == "memory-child":
        print(json.dumps(memory(asked.samples[0])))
        return
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    match asked.what:
        case "memory":
            found["memory"] = [_in_a_process(samples) for samples in asked.samples]
        case "resume":
            found["resume"] = resume(asked.pictures)
        case "rates":
            found["rates"] = rates(asked.pictures)
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found[asked.what], indent=2))


if __name__ == "__main__":
    main()
