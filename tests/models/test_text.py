"""The packaged MiniLM really encodes; CLIP goes through its real code with a network small enough to make here."""

from __future__ import annotations

import pytest
import torch

from paris.models.text import TextEncoderError, open_text_encoder


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


def test_identity_pins_the_weights(minilm):
    assert minilm.identity() == {
        "kind": "minilm",
        "name": "all-MiniLM-L6-v2",
        "sha256": "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    }


def test_unknown_kind_is_explained():
    with pytest.raises(TextEncoderError, match="'minilm' and 'clip'"):
        open_text_encoder("t5", "t5-xxl", 16)


def test_clip_folder_that_is_not_there_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TextEncoderError, match="neither a local folder"):
        open_text_encoder("clip", "nobody/nothing", 77)


@pytest.fixture
def clip_folder(tmp_path):
    """A CLIP text tower of the real class and file layout, of toy size."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(c) for c in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=len(words) - 2, eos_token_id=len(words) - 1, pad_token_id=len(words) - 1,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(tmp_path)
    return tmp_path


def test_clip_from_a_folder_gives_77_tokens_and_a_pooled_vector(clip_folder):
    encoder = open_text_encoder("clip", str(clip_folder), 77)
    batch = encoder.encode(["red fox", "", "red fox"])
    assert batch.tokens_BLE.shape == (3, 77, 16)
    assert batch.mask_BL.all()
    assert torch.equal(batch.pooled_BE[0], batch.pooled_BE[2])
    assert not torch.allclose(batch.pooled_BE[0], batch.pooled_BE[1])
    assert encoder.identity()["kind"] == "clip"
    assert len(encoder.identity()["sha256"]) == 71
