"""A published repository without us: plain diffusers tools open it, the public `model_signing` tool verifies it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoModel, FlowMatchEulerDiscreteScheduler
from diffusers_alone import velocity_by_diffusers_alone
from hub_run import ANNS, filled, publish, writer
from hub_testing import environment, point_client_at
from huggingface_hub import snapshot_download
from loopback_hub import LoopbackHub
from network_simulator import ANN, BEN, PRESET, NetworkSimulator, exported

from paris.models.experts import load_expert
from paris.models.filenames import WEIGHTS
from paris.models.files import write_bytes
from paris.protocol.errors import RecordError, SignatureError
from paris.registry.hubcheckpoint import checkpoint_change
from paris.registry.modelcard import CARD
from paris.registry.oms import KEY_STATEMENT, PUBLIC_KEY, SIGNATURE, key_statement, owner_of, public_pem, signing_key
from paris.registry.store import Store


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub") as server:
        point_client_at(server.endpoint, monkeypatch)
        yield server


@pytest.fixture
def published(hub: LoopbackHub, network: NetworkSimulator, store: Store) -> str:
    """Two checkpoints of one expert and one of the router, sealed by Ann; the expert's newest comes back."""
    first = network.publish(ANN, "cluster-0", 30)
    newest = network.publish(ANN, "cluster-0", 60, first)
    router = network.publish(ANN, "router", 10)
    filled(store, network)
    for checkpoint in (first, router, newest):
        change = checkpoint_change(store, network.genesis, network.run, ANNS, checkpoint, identity=ANN)
        writer(hub).update(ANNS, network.run, change)
    return newest


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument:UserWarning")  # diffusers still gives it
def test_diffusers_opens_what_lies_there(hub: LoopbackHub, published: str, tmp_path: Path) -> None:
    """From the Hub by its name with plain diffusers: sampler and network, whose class the settings name."""
    where = {"cache_dir": tmp_path / "cache"}
    assert FlowMatchEulerDiscreteScheduler.from_pretrained(ANNS, subfolder="scheduler", **where).config.shift == 1.0
    network = AutoModel.from_pretrained(ANNS, subfolder="expert_0", torch_dtype=torch.bfloat16, **where)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    side, channels = network.config.sample_size, network.config.in_channels
    text = torch.zeros(1, 2, network.config.caption_channels, dtype=torch.bfloat16)
    x = torch.zeros(1, channels, side, side, dtype=torch.bfloat16)
    assert network(x, text, timestep=torch.ones(1)).sample.shape == x.shape


@pytest.mark.slow
def test_a_repository_opens_by_its_name_with_diffusers_alone(
    hub: LoopbackHub, network: NetworkSimulator, store: Store, tmp_path: Path
) -> None:
    """A process that knows diffusers and the Hub, and nothing of ours, gets the velocity that our expert has."""
    files = exported("cluster-0")
    checkpoint = network.publish(ANN, "cluster-0", 60, files=files)
    publish(hub, filled(store, network), network, checkpoint)
    assert "from diffusers import PixArtTransformer2DModel" in hub.read(ANNS, CARD).decode()

    x, text = torch.randn(3, 3, 32, 40), torch.randn(3, 5, PRESET.expert["text_dim"])
    t, mask = torch.tensor([0.0, 0.3, 1.0]), torch.arange(5) < torch.tensor([[1], [3], [5]])
    named = {"x": x, "t": t, "text": text, "mask": mask}
    alone = {**environment(hub.endpoint), "HF_HOME": str(tmp_path / "home")}
    found = velocity_by_diffusers_alone(ANNS, named, tmp_path, subfolder="expert_0", env=alone)
    for name, data in files.items():
        write_bytes(data, tmp_path / "ours" / name)
    with torch.no_grad():
        expected = load_expert(tmp_path / "ours", torch.float32)(x, t, text, mask)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def verify(folder: Path) -> subprocess.CompletedProcess[str]:
    """What somebody types who has nothing but the public tool."""
    asked = ("verify", "key", folder, "--signature", folder / SIGNATURE, "--public_key", folder / PUBLIC_KEY)
    command = [sys.executable, "-m", "model_signing", *map(str, asked)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment("http://127.0.0.1:9"))


@pytest.mark.slow
def test_model_signing_verifies_the_repository_and_finds_tampering(
    hub: LoopbackHub, published: str, tmp_path: Path
) -> None:
    folder = Path(snapshot_download(ANNS, local_dir=tmp_path / "all", endpoint=hub.endpoint))
    done = verify(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    weights = folder / "expert_0" / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    refused = verify(folder)
    assert refused.returncode != 0
    assert "Hash mismatch" in refused.stdout + refused.stderr


def test_the_signature_covers_every_file_but_itself(hub: LoopbackHub, published: str) -> None:
    import base64

    bundle = json.loads(hub.read(ANNS, SIGNATURE))
    signed = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))["predicate"]["resources"]
    files = hub.commits(ANNS)[-1].files
    assert {item["name"]: item["digest"] for item in signed} == {
        path: file.sha256 for path, file in files.items() if path not in {SIGNATURE, ".gitattributes"}
    }


def test_the_key_is_bound_to_the_nodes_name(hub: LoopbackHub, published: str) -> None:
    pem, statement = hub.read(ANNS, PUBLIC_KEY), hub.read(ANNS, KEY_STATEMENT)
    assert owner_of(statement, pem) == ANN.peer_id
    with pytest.raises(RecordError, match="another key"):
        owner_of(statement, public_pem(signing_key(BEN)))
    fields = json.loads(statement)
    fields["signatures"][0]["keyid"] = BEN.peer_id
    with pytest.raises(SignatureError):
        owner_of(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode(), pem)
    assert key_statement(ANN) == statement, "the same key every time"
