"""Model cards: metadata the Hub takes, Markdown no stranger's words can break, commands that are right."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load
from network_simulator import ANN, BEN, NetworkSimulator, genesis_fields

from paris.protocol.genesis import Genesis
from paris.registry.modelcard import (
    DRAWN,
    LICENSES,
    SHEET,
    CardUnit,
    contributor_card,
    license_of,
    plain,
    registry_card,
)
from paris.registry.runkey import RunKey

UNITS = (
    CardUnit("cluster-0", 60, "sha256:" + "a" * 64, 432_100, (ANN.peer_id, BEN.peer_id), (SHEET, DRAWN)),
    CardUnit("router", 10, "sha256:" + "b" * 64, None, (ANN.peer_id,), has_state=True),
)


def genesis(**data: str) -> Genesis:
    fields = genesis_fields()
    return Genesis.parse({**fields, "data": {**fields["data"], "manifest": "sha256:" + "0" * 64, **data}})


@pytest.fixture
def card(network: NetworkSimulator) -> ModelCard:
    return ModelCard(contributor_card(network.genesis, network.run, "ann/squares", UNITS))


def test_metadata_is_what_the_hub_knows(card: ModelCard) -> None:
    """Parsed by the Hub's own client, strictly: an unknown form of results would raise."""
    data = card.data.to_dict()
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "text-to-image"
    assert data["license"] in LICENSES
    assert all(isinstance(tag, str) and len(tag) < 64 for tag in data["tags"])
    [result] = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("loss", 0.4321, "holdout")
    assert result.verified is None, "a claim is not a verification"
    assert yaml.safe_load(card.data.to_yaml()) == data


def test_metadata_survives_a_file(card: ModelCard, tmp_path) -> None:
    card.save(tmp_path / "README.md")
    assert metadata_load(tmp_path / "README.md") == card.data.to_dict()


def test_the_card_says_what_lies_where_and_how_to_check_it(card: ModelCard, network: NetworkSimulator) -> None:
    text = card.text
    key = RunKey.parse(text.split('paris-node audit "')[1].split('"')[0])
    assert (key.run, key.hub) == (network.run, "ann/squares")
    for part in (
        "`expert_0/`", "60 of ", "0.4321", UNITS[0].checkpoint, ANN.peer_id[:16], BEN.peer_id[:16],
        "expert_0/contact.png", "expert_0/samples.png",
        'PixArtTransformer2DModel.from_pretrained("ann/squares", subfolder="expert_0")',
        "`router/state.safetensors`", network.run,
    ):  # fmt: skip
        assert part in text


def test_a_registry_names_its_repositories(network: NetworkSimulator) -> None:
    card = ModelCard(registry_card(network.genesis, network.run, "curator/squares", ["ben/squares", "ann/squares"]))
    assert card.text.index("ann/squares") < card.text.index("ben/squares")
    assert card.data.eval_results is None


@pytest.mark.parametrize(
    ("given", "licence"),
    [
        ("CC0-1.0", {"license": "cc0-1.0"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("", {"license": "unknown"}),
        ("LicenseRef My own!", {"license": "other", "license_name": "licenseref-my-own"}),
        ("!!!", {"license": "other", "license_name": "other"}),
    ],
)
def test_licences_in_the_hubs_terms(given: str, licence: dict[str, str]) -> None:
    found = license_of(genesis(license=given), "ann/squares")
    assert {name: part for name, part in found.items() if name != "license_link"} == licence
    assert ("license_link" in found) == (licence["license"] == "other")


def test_hostile_words_stay_words() -> None:
    text = contributor_card(
        genesis(name="x|y](javascript:alert(1))<script>\n---\nlicense: mit\n---"), "sha256:" + "1" * 64, "a/b", UNITS
    )
    assert "<script" not in text
    assert "](javascript" not in text
    assert ModelCard(text).data.license == "cc0-1.0"
    assert plain("a\nb|c`d") == "abcd"
