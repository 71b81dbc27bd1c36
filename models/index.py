"""What a pipeline folder says of itself, beside its weights; `paris.models.pipeline` opens one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paris.models.files import write_json
from paris.models.schedulers import make_scheduler

INDEX = "model_index.json"
TEXT = "text_encoder.json"


def write_index(
    folder: Path,
    experts: int,
    codec: str,
    text: dict[str, Any],
    *,
    shift: float | None = None,
    objectives: Sequence[Mapping[str, str]] | None = None,
    measured: Mapping[str, Any] | None = None,
    absent: Sequence[int] = (),
) -> None:
    """Write model_index.json and text_encoder.json, and the default scheduler where asked: all but the weights.

    Args:
        folder: the pipeline folder.
        experts: number of expert_<k> folders.
        codec: kind of codec.
        text: kind, name, sha256 and tokens of the text encoder.
        shift: also write scheduler/scheduler_config.json, of steps with this time shift.
        objectives: {objective, noise_schedule} of every expert; None means that all predict flow velocity.
        measured: `top_k` and `router_temperature`, where a run has measured them.
        absent: experts whose folders are missing on purpose, by number.
    """
    index: dict[str, Any] = {"_class_name": "ParisPipeline", "experts": experts, "codec": codec, **(measured or {})}
    if absent:
        index["absent"] = list(absent)
    if objectives is not None:
        index["objectives"] = [dict(names) for names in objectives]
    write_json(index, folder / INDEX)
    write_json(text, folder / TEXT)
    if shift is not None:
        make_scheduler("euler", shift).save_pretrained(folder / "scheduler")
