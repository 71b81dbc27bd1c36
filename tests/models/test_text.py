"""The packaged MiniLM really encodes; CLIP and T5 go through their real code with networks made here."""

from __future__ import annotations

from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from paris.models.text import Remembering, TextEncoderError, open_text_encoder


@pytest.fixture(scope="module")
def minilm():
    return open_text_encoder("minilm", "all-MiniLM-L6-v2", 16)


def test_sentences_of_like_meaning_lie_close(minilm):
    fox, animal, car = minilm.encode(["a red fox", "an orange fox animal", "a blue sports car"]).pooled_BE
    assert fox @ animal > fox @ car + 0.2
    assert fox.norm().item() == pytest.approx(1, abs=1e-5)


def test_first_token_is_the_sentence_and_all_have_unit_strength(minilm):
    batch = minilm.encode(["a red fox", "x " * 60])
    assert batch.tokens_BLE.shape == (2, 16, 384)
    assert batch.mask_BL.sum(1).tolist() == [5, 16]
    assert torch.allclose(batch.tokens_BLE[:, 0], batch.pooled_BE * 384**0.5, atol=1e-3)
    strengths = batch.tokens_BLE.square().mean(-1)
    assert torch.allclose(strengths[batch.mask_BL], torch.ones(()), atol=1e-3)
    assert not strengths[~batch.mask_BL].any()


def test_order_and_company_do_not_matter(minilm):
    captions = ["a cat", "a very long caption about many cats that sleep", "", "dog"]
    together, alone = minilm.encode(captions), [minilm.encode([caption]) for caption in captions]
    for row, single in enumerate(alone):
        assert torch.allclose(together.tokens_BLE[row], single.tokens_BLE[0], atol=1e-4)
        assert torch.equal(together.mask_BL[row], single.mask_BL[0])


def test_captions_come_back_from_memory_in_their_order_and_the_oldest_go_first(minilm):
    asked: list[list[str]] = []

    class Counting:
        dim, tokens = minilm.dim, minilm.tokens

        def encode(self, captions):
            asked.append(captions)
            return minilm.encode(captions)

        def identity(self):
            return minilm.identity()

    remembering = Remembering(Counting(), most=2)
    first = remembering.encode(["fox", "", "fox"])
    again = remembering.encode(["", "fox", ""])
    assert asked == [["fox", ""]]
    for before, after in zip(first.parts(), again.parts(), strict=True):
        assert torch.equal(before[[1, 0, 1]], after)
    assert torch.allclose(first.pooled_BE, minilm.encode(["fox", "", "fox"]).pooled_BE, atol=1e-5)
    assert len(remembering.encode(["a", "b", "c"]).pooled_BE) == 3, "more than is kept"
    remembering.encode(["c", "b", "a"])
    assert asked[1:] == [["a", "b", "c"], ["a"]]
    assert remembering.identity() == minilm.identity()
    assert (remembering.dim, remembering.tokens) == (minilm.dim, minilm.tokens)


def test_identity_pins_the_weights(minilm):
    assert minilm.identity() == {
        "kind": "minilm",
        "name": "all-MiniLM-L6-v2",
        "sha256": "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    }


def test_unknown_kind_is_explained():
    with pytest.raises(TextEncoderError, match="'minilm', 'clip' and 't5'"):
        open_text_encoder("gpt", "gpt-2", 16)


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_an_encoder_that_is_nowhere_is_explained(kind, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TextEncoderError, match=f"The {kind} text encoder 'nobody/nothing' is neither a local folder"):
        open_text_encoder(kind, "nobody/nothing", 77)


SMALL = {"vocab_size": 54, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LETTERS = [chr(c) for c in range(97, 123)]


def clip_tokenizer():
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


def clip_config():
    return CLIPTextConfig(**SMALL, bos_token_id=52, eos_token_id=53, pad_token_id=53)


@pytest.fixture
def clip_folder(tmp_path):
    """A CLIP text tower of the real class and file layout, of toy size."""
    torch.manual_seed(0)
    clip_tokenizer().save_pretrained(tmp_path)
    CLIPTextModel(clip_config()).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def t5_folder(tmp_path):
    """A T5 encoder of the real class and file layout, of toy size."""
    torch.manual_seed(0)
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *LETTERS]
    T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0).save_pretrained(tmp_path)
    config = T5Config(vocab_size=len(pieces), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path)
    return tmp_path


def edit(folder, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_clip_from_a_folder_gives_77_tokens_and_a_pooled_vector(clip_folder):
    encoder = open_text_encoder("clip", str(clip_folder), 77)
    batch = encoder.encode(["red fox", "", "red fox"])
    assert batch.tokens_BLE.shape == (3, 77, 16)
    assert batch.mask_BL.all()
    assert torch.equal(batch.pooled_BE[0], batch.pooled_BE[2])
    assert not torch.allclose(batch.pooled_BE[0], batch.pooled_BE[1])
    assert encoder.identity()["kind"] == "clip"
    assert (
        encoder.identity()["sha256"] == "sha256:" + sha256((clip_folder / "model.safetensors").read_bytes()).hexdigest()
    )


def test_clip_pools_what_stands_at_the_end_of_the_text(clip_folder):
    encoder = open_text_encoder("clip", str(clip_folder), 77)
    batch = encoder.encode(["fox"])
    assert torch.equal(batch.pooled_BE[0], batch.tokens_BLE[0, 4]), "start, f, o, x, end"


def test_clip_out_of_a_diffusers_pipeline_or_a_whole_clip_is_the_same(clip_folder, tmp_path_factory):
    """The files of the text tower alone, in two folders; and as one part of a network that sees pictures too."""
    alone = open_text_encoder("clip", str(clip_folder), 77)
    pipeline, whole = tmp_path_factory.mktemp("pipeline"), tmp_path_factory.mktemp("whole")
    clip_tokenizer().save_pretrained(pipeline / "tokenizer")
    alone.model.save_pretrained(pipeline / "text_encoder")
    model = CLIPModel(CLIPConfig(text_config=clip_config().to_dict(), vision_config={**SMALL, "image_size": 8}))
    model.text_model.load_state_dict(alone.model.state_dict())
    model.save_pretrained(whole)
    clip_tokenizer().save_pretrained(whole)
    for other in (pipeline, whole):
        encoded = open_text_encoder("clip", str(other), 77).encode(["red fox"])
        assert torch.equal(encoded.tokens_BLE, alone.encode(["red fox"]).tokens_BLE)


def test_t5_masks_padding_and_pools_the_mean_of_the_caption(t5_folder):
    encoder = open_text_encoder("t5", str(t5_folder), 8)
    assert (encoder.dim, encoder.tokens, encoder.identity()["kind"]) == (16, 8, "t5")
    batch = encoder.encode(["fox", "", "fox" * 9])
    assert batch.tokens_BLE.shape == (3, 8, 16)
    assert batch.mask_BL.sum(1).tolist() == [5, 1, 8], "a space, three letters and the end; the end; all"
    assert not batch.tokens_BLE[~batch.mask_BL].any()
    torch.testing.assert_close(batch.pooled_BE[0], batch.tokens_BLE[0, :5].mean(0))
    with torch.no_grad():
        bare = encoder.model(torch.tensor([[3, 9, 18, 27, 1]])).last_hidden_state[0]
    torch.testing.assert_close(batch.tokens_BLE[0, :5], bare)


def test_one_interface_for_every_encoder(minilm, clip_folder):
    encoders = [minilm, open_text_encoder("clip", str(clip_folder), 16)]
    for encoder in encoders:
        batch = encoder.encode([f"number {i}" for i in range(70)])
        assert batch.tokens_BLE.shape == (70, encoder.tokens, encoder.dim)
        assert batch.mask_BL.shape == (70, encoder.tokens)
        assert batch.pooled_BE.shape == (70, encoder.dim)
        assert batch.tokens_BLE.dtype == batch.pooled_BE.dtype == torch.float32
        assert set(encoder.identity()) == {"kind", "name", "sha256"}


@pytest.mark.parametrize("kind", ["clip", "t5"])
@pytest.mark.parametrize("fault", ["missing", "unknown", "misshapen", "cut", "absent", "pickle"])
def test_weights_that_are_not_whole_are_refused(kind, fault, request):
    """transformers would warn at most, and draw the missing numbers at random."""
    folder = request.getfixturevalue(f"{kind}_folder")
    file = folder / "model.safetensors"
    name = max(load_file(file))
    if fault == "missing":
        edit(folder, lambda weights: weights.pop(name))
    elif fault == "unknown":
        edit(folder, lambda weights: weights.update(extra=torch.zeros(2)))
    elif fault == "misshapen":
        edit(folder, lambda weights: weights.update({name: torch.zeros(3)}))
    elif fault == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    elif fault == "absent":
        file.unlink()
    else:
        file.rename(folder / "pytorch_model.bin")
    with pytest.raises(TextEncoderError, match=f"{kind} text encoder"):
        open_text_encoder(kind, str(folder), 16)


def test_a_folder_without_a_tokenizer_is_explained(clip_folder):
    for file in clip_folder.glob("*token*"):
        file.unlink()
    with pytest.raises(TextEncoderError, match="its tokenizer"):
        open_text_encoder("clip", str(clip_folder), 77)


def test_weights_in_several_files_have_one_digest(t5_folder):
    encoder = open_text_encoder("t5", str(t5_folder), 8)
    whole = encoder.identity()["sha256"]
    encoder.model.save_pretrained(t5_folder, max_shard_size="2KB")
    (t5_folder / "model.safetensors").unlink(missing_ok=True)
    parts = sorted(t5_folder.glob("model-*.safetensors"))
    assert len(parts) > 1
    sums = "".join(f"{sha256(part.read_bytes()).hexdigest()}  {part.name}\n" for part in parts)
    again = open_text_encoder("t5", str(t5_folder), 8)
    assert again.identity()["sha256"] == "sha256:" + sha256(sums.encode()).hexdigest() != whole
    assert torch.equal(again.encode(["fox"]).tokens_BLE, encoder.encode(["fox"]).tokens_BLE)
