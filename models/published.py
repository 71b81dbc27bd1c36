"""How a network lies in the two files that are published: under diffusers' own class wherever that computes it.

So whoever has diffusers opens a published expert, and needs nothing of ours. A network without such a counterpart
(routers, other wirings) lies under our class, with our names. Training states always have our names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from paris.models.hunyuan_video import HUNYUAN_VIDEO
from paris.models.pixart import PIXART
from paris.models.renaming import Counterpart

COUNTERPARTS: Final = (PIXART, HUNYUAN_VIDEO)
LARGEST: Final = 2**20
"""No size of a network is above; sizes of networks that can be built are far below."""

UNREAD: Final = frozenset({"_class_name", "_diffusers_version", "_name_or_path"})
"""What config.json says of itself and no network is built from. Other private names are not harmless: diffusers obeys
`_use_default_values`."""


@dataclass(frozen=True)
class Form:
    """How one network lies in files.

    Attributes:
        config: its config.json.
        to_file: its tensors, or such without memory, by the file's names.
        from_file: the file's tensors, all there, by its names.
    """

    config: Mapping[str, Any]
    to_file: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    from_file: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict


def form_of(config: Mapping[str, Any]) -> Form:
    """Return how a network is published.

    Args:
        config: every argument of it, as `to_json_string` of the network says them.
    """
    counterpart = counterpart_of(config)
    return _form(counterpart, config) if counterpart else Form(config)


def form_in(settings: Mapping[str, Any], config: Mapping[str, Any]) -> Form:
    """Return how a network of this whole config lies beside a config.json, which may have our class and our names."""
    theirs = {counterpart.theirs for counterpart in COUNTERPARTS}
    return form_of(config) if settings.get("_class_name") in theirs else Form(config)


def counterpart_of(config: Mapping[str, Any]) -> Counterpart | None:
    """Return the class of diffusers that a network of this whole config is published under, if there is one."""
    return next((counterpart for counterpart in COUNTERPARTS if counterpart.fits(config)), None)


def as_ours(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json as our class has it: one of a counterpart translated, any other as it is.

    Raises:
        ValueError: the counterpart would compute something else than ours by these settings.
    """
    for counterpart in COUNTERPARTS:
        if settings.get("_class_name") == counterpart.theirs:
            return _translated(counterpart, settings)
    return dict(settings)


def _form(counterpart: Counterpart, config: Mapping[str, Any]) -> Form:
    about = {name: config[name] for name in UNREAD & config.keys()}
    return Form(
        {**about, **counterpart.settings(config), "_class_name": counterpart.theirs},
        lambda ours: counterpart.to_theirs(config, ours),
        lambda theirs: counterpart.to_ours(config, theirs),
    )


def _translated(counterpart: Counterpart, settings: Mapping[str, Any]) -> dict[str, Any]:
    for name in counterpart.sizes:
        size = settings.get(name)
        if type(size) is not int or not 1 <= size <= LARGEST:
            raise ValueError(f"its {name} is {size!r:.80}, which is no whole number that a network can have")
    arguments = counterpart.arguments(settings)
    expected = counterpart.settings(arguments)
    for name in sorted((settings.keys() | expected.keys()) - UNREAD):
        if name not in settings or name not in expected or settings[name] != expected[name]:
            raise ValueError(
                f"its {name} is {settings.get(name)!r:.80} where {expected.get(name)!r:.80} is expected: diffusers' "
                f"{counterpart.theirs} would compute another network than ours"
            )
    about = {name: settings[name] for name in UNREAD & settings.keys()}
    return {**about, **arguments, "_class_name": counterpart.ours}
