"""What a process imports is what people wait for, and what its memory is full of: nothing it does not compute with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = "paris://" + "ab" * 32
NOBODY = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCpe2Xo"
ALONE = ("--listen", "/ip4/127.0.0.1/tcp/0", "--peer", NOBODY)
NETWORKS = {"diffusers", "transformers", "torch._dynamo", "sympy", "faiss", "matplotlib"}
COMPUTING = {*NETWORKS, "torch", "numpy", "scipy", "PIL"}
EVERYTHING = {*COMPUTING, "hivemind", "huggingface_hub"}
SHOW = "import atexit, sys; atexit.register(lambda: print('modules:', *sys.modules)); "
COMMAND = "import runpy; runpy.run_module('paris.node', run_name='__main__')"
TRAINING = """
import paris.node.worker
from paris.models.kinds import expert_of, router_of
from paris.models.presets import PRESETS
micro = PRESETS["micro"]
expert_of(micro.expert)(**micro.expert), router_of(micro.router)
"""


def imported(home: Path, code: str, *arguments: str) -> set[str]:
    """Every module that a process has imported when it ends, however it ends."""
    command = [sys.executable, "-c", SHOW + code, *arguments]
    environment = {**os.environ, "PARIS_HOME": str(home)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=120, env=environment)
    return set(done.stdout.rpartition("modules: ")[2].split())


@pytest.mark.parametrize(
    "command",
    [("--help",), ("key", "show"), ("key", "delegate", RUN, "nobody"), ("hub", "queue", RUN)],
    ids=lambda command: " ".join(command[:2]),
)
def test_commands_that_neither_compute_nor_ask_anybody_import_no_library_for_it(tmp_path, command):
    modules = imported(tmp_path, COMMAND, *command)
    assert "paris.node.cli.app" in modules
    assert not modules & EVERYTHING


@pytest.mark.slow
@pytest.mark.parametrize("command", [("status",), ("start",), ("run", "promote")], ids=" ".join)
def test_who_only_asks_and_serves_peers_imports_nothing_that_computes(tmp_path, command):
    modules = imported(tmp_path, COMMAND, *command, RUN, *ALONE)
    assert "paris.node.peer" in modules
    assert not modules & COMPUTING


@pytest.mark.slow
@pytest.mark.parametrize("command", [("fetch",), ("audit",)], ids=" ".join)
def test_who_looks_at_weights_builds_no_network_before_there_are_any(tmp_path, command):
    modules = imported(tmp_path, COMMAND, *command, RUN, *ALONE)
    assert "paris.registry.weights" in modules
    assert not modules & NETWORKS


@pytest.mark.slow
def test_training_imports_neither_text_encoders_nor_pipelines_nor_the_network_of_peers(tmp_path):
    modules = imported(tmp_path, TRAINING)
    assert {"paris.models.training", "paris.models.dit", "paris.models.router"} <= modules
    assert not modules & {
        "hivemind", "faiss", "transformers.modeling_utils", "diffusers.loaders", "diffusers.pipelines.pipeline_utils",
        "diffusers.models.autoencoders.vae", "paris.models.video", "paris.models.text_networks",
    }  # fmt: skip
