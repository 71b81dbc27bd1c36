"""A small real run for the node's tests: generated pictures, and commands run as a person would."""

from __future__ import annotations

import asyncio
import colorsys
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image, ImageDraw

from paris.models.ensemble import Ensemble
from paris.models.kinds import expert_of, router_of
from paris.models.latents import Pixels
from paris.models.pipeline import ParisPipeline
from paris.models.text import open_text_encoder
from paris.models.video_presets import EVERY_PRESET
from paris.node.demo.processes import NodeProcess

COMMAND = (sys.executable, "-m", "paris.node")
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
ANIMALS = ("horse", "sheep", "tiger", "eagle", "salmon", "lizard", "beetle", "monkey")


def draw_pictures(folder: Path) -> None:
    """Two kinds of captioned pictures: coloured shapes, and stripes that stand for animals."""
    folder.mkdir()
    for i, colour in enumerate(COLOURS):
        rgb = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(i / len(COLOURS), 0.9, 0.9))
        for size in range(6, 16):
            shape, animal = Image.new("RGB", (32, 32), "white"), Image.new("RGB", (32, 32), "white")
            ImageDraw.Draw(shape).ellipse((16 - size, 16 - size, 16 + size, 16 + size), rgb)
            ImageDraw.Draw(animal).rectangle((size, 4, size + 6, 28), rgb)
            for picture, caption in (
                (shape, f"{colour} circle of size {size}"),
                (animal, f"{ANIMALS[i]} number {size}"),
            ):
                picture.save(folder / f"{caption.replace(' ', '-')}.png")
                (folder / f"{caption.replace(' ', '-')}.txt").write_text(caption)


def draw_ensemble(folder: Path, experts: int, preset_name: str = "micro") -> Path:
    """Experts of a small preset in pixels and a router, all parameters random."""
    torch.manual_seed(0)
    preset = EVERY_PRESET[preset_name]
    expert, router = expert_of(preset.expert), router_of(preset.router)
    networks = [*(expert(**preset.expert) for _ in range(experts)), router(**preset.router, clusters=experts)]
    with torch.no_grad():
        for network in networks:
            for parameter in network.parameters():
                parameter.normal_(std=0.1)
    mixing = Ensemble(networks[:-1], networks[-1])
    text = open_text_encoder("minilm", "minilm", preset.text_tokens)
    ParisPipeline(mixing, Pixels(), text, FlowMatchEulerDiscreteScheduler(), preset.shape).save_pretrained(folder)
    return folder


def paris_node(*arguments: object, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a command as a person would."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s, check=False
    )


def last_json(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON a command printed last."""
    assert done.stdout.strip(), f"no output; stderr: {done.stderr}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def files_in(folder: Path) -> dict[str, bytes]:
    """Contents by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Contributor(NodeProcess):
    """A node that says when something happens."""

    def __init__(self, name: str, homes: Path) -> None:
        super().__init__(name, homes / name, homes / f"{name}.log")
        self.events: list[dict[str, Any]] = []
        self._changed = asyncio.Event()

    def _note(self, event: dict[str, Any]) -> None:
        super()._note(event)
        self.events.append(event)
        self._changed.set()

    async def until(self, kind: str, at_least: int = 0) -> dict[str, Any]:
        """The next event of a kind, with at least so many steps."""
        while True:
            for event in self.events:
                if event.get("event") == kind and event.get("step", 0) >= at_least:
                    return event
            assert self._reader is not None
            assert not self._reader.done(), f"ended without {kind}: {self.events[-3:]} {self.log.read_text()}"
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait({changed, self._reader}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()

    async def until_more(self) -> None:
        """Wait for one more event of any kind."""
        seen = len(self.events)
        while len(self.events) == seen:
            assert self._reader is not None
            assert not self._reader.done(), self.log.read_text()
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait({changed, self._reader}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()

    async def exited(self) -> None:
        """Wait until it has ended by itself."""
        assert self._reader is not None
        await self._reader
