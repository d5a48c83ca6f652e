"""The source models of `streets` that the package ships, so that nobody has to train them first.

Each file holds a hash of the recipe that made it: what is drawn, how it is trained, which network. The versions of
OpenCV and NumPy are left out: a new one may change single grey levels, and must not make every model useless.
"""

import hashlib
import json
import tokenize
from pathlib import Path
from typing import Any

import torch

from stpl.data import streets
from stpl.data.streets import StreetsOptions
from stpl.errors import ConfigError
from stpl.nn import checkpoint_files, weights
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network
from stpl.runs.experiments import overlays
from stpl.yaml_files import load_yaml

BENCH, EXPERIMENT = "streets", "source"

_ELSEWHERE = ("__init__", "cache", "reader", "domain")
"""Modules of `data.streets` that have no say in what the studio looks like; the camera's shift is in the last."""


def fingerprint(seed: int) -> str:
    """A hash of all that makes source model `seed` what it is."""
    recipe = _recipe()
    options = NetworkOptions(DeepLabV2(**recipe["network"]["architecture"]["init_args"]))
    with torch.device("meta"):
        tensors = {name: list(value.shape) for name, value in build_network(options).state_dict().items()}
    digest = hashlib.sha256()
    for path in sorted(Path(str(streets.__file__)).parent.glob("*.py")):
        if path.stem not in _ELSEWHERE:
            digest.update(f"{path.name} {_code(path)}\n".encode())
    content = [digest.hexdigest(), StreetsOptions().content("studio", "train"), recipe, tensors, seed]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _code(path: Path) -> str:
    """The text of a module without comments, docstrings and spaces, which no picture depends on.

    They are cut out of the text itself: how Python takes a string with braces apart differs from version to version.
    """
    lines, begins = path.read_text(encoding="utf-8").splitlines(), True
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING):
                begins = True
            elif token.type == tokenize.COMMENT:
                _blank(lines, token.start, token.end)
            elif token.type != tokenize.NL:
                if begins and token.type == tokenize.STRING:
                    _blank(lines, token.start, token.end)
                begins = False
    return "".join("".join(lines).split())


def _blank(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> None:
    """Replace what stands between two places (row from 1, column) by spaces."""
    for row in range(start[0] - 1, end[0]):
        first = start[1] if row == start[0] - 1 else 0
        last = end[1] if row == end[0] - 1 else len(lines[row])
        lines[row] = lines[row][:first] + " " * (last - first) + lines[row][last:]


def _recipe() -> dict[str, Any]:
    """The settings of source training that decide its outcome."""
    merged: dict[str, Any] = {}
    for path in overlays(EXPERIMENT, BENCH):
        _merge(merged, load_yaml(path))
    return {
        **{group: merged.get(group) for group in ("network", "optimizer", "batchnorm", "model")},
        "steps": merged["trainer"]["max_steps"],
        "batch_size": merged["data"]["init_args"]["loading"]["batch_size"],
    }


def _merge(into: dict[str, Any], settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def source_model(seed: int) -> Path:
    """The name under which `stpl.nn.weights` finds the shipped source model of a seed.

    Raises:
        ConfigError: there is none, or it was made by another recipe.
    """
    path = checkpoint_files.shipped(BENCH, seed)
    if not path.is_file():
        command = f"stpl fit --bench={BENCH} --experiment={EXPERIMENT} --seed_everything={seed}"
        mend = f"`make source SEEDS={seed + 1}` trains it, or {command}"
        raise ConfigError(f"no source model of seed {seed} is recorded or shipped", where="start_from", mend=mend)
    if weights.entry(path).get("fingerprint") != fingerprint(seed):
        what = f"the shipped source model of seed {seed} was trained with another renderer, recipe or network"
        raise ConfigError(what, where="start_from", mend="`make ship` trains it anew")
    return Path(f"{BENCH}:{seed}")
