"""Whether this version can train a run: a genesis is signed data, and its curator may ask for anything."""

from __future__ import annotations

from paris.models.presets import TEXT_ENCODERS, Preset
from paris.models.recipe import Recipe, RecipeError
from paris.models.video_presets import EVERY_PRESET
from paris.protocol import records
from paris.protocol.errors import RecordError
from paris.protocol.records import Genesis


def require_trainable(genesis: Genesis) -> None:
    """Refuse a run before anything is built or fetched for it.

    Raises:
        RecordError: its networks are not those of a preset, its text encoder is not the preset's, or a recipe is
            impossible.
    """
    model, text = genesis.model, genesis.text
    preset = EVERY_PRESET.get(model.preset)
    if preset is None:
        raise _refused(genesis, f"it asks for the preset {model.preset!r}")
    if model.expert != preset.expert or model.router != {**preset.router, "clusters": len(genesis.clusters)}:
        raise _refused(genesis, f"its networks are not those of the preset {preset.name}")
    if preset.expert["text_dim"] not in TEXT_ENCODERS:
        raise _refused(genesis, f"no text encoder of this version is wide enough for the preset {preset.name}")
    if (text.kind, text.name, text.tokens) != (*TEXT_ENCODERS[preset.expert["text_dim"]], preset.text_tokens):
        asked = f"{text.kind} {text.name!r} with {text.tokens} tokens"
        raise _refused(genesis, f"its text encoder, {asked}, is not the one of the preset {preset.name}")
    if genesis.start.kind == "base":
        raise _refused(genesis, "it has a base unit to be trained first; experts start elsewhere here")
    for recipe in (genesis.training.expert, genesis.training.router):
        if problem := recipe_problem(recipe, preset):
            raise _refused(genesis, problem)


def recipe_problem(recipe: records.Recipe, preset: Preset) -> str | None:
    """Why nobody can train the networks of a preset with these numbers; None where everybody can."""
    try:
        Recipe.of(recipe.model_dump(mode="json"))
    except RecipeError as error:
        return str(error)
    if float(recipe.first_frames) and not preset.expert.get("first_frame"):
        return f"the networks of the preset {preset.name} cannot be told a first frame"
    return None


def _refused(genesis: Genesis, why: str) -> RecordError:
    return RecordError(
        f"this version of paris-node cannot train the run {genesis.name!r}",
        why,
        "Ask its curator which version made it: it was written by another one, or by somebody hostile",
    )
