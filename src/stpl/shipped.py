"""The source models of `streets` that the package ships, so that nobody has to train them first.

A model belongs to the recipe that made it: what is drawn, how it is trained, which network. A hash of all that stands
in its file. It leaves out the versions of OpenCV and NumPy, which may change single grey levels of a picture: a new one
of these must not make every shipped model useless.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tokenize
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stpl.data import streets
from stpl.data.streets import StreetsOptions
from stpl.errors import ConfigError, refusals
from stpl.experiments import load_yaml, overlays
from stpl.fit import build_evaluation
from stpl.nn import formats, weights
from stpl.nn.network import NetworkOptions, build_network
from stpl.record import METRICS, RunKey, RunRecord, read_metrics
from stpl.request import EXPERIMENTS, Request

BENCH, EXPERIMENT = "streets", "source"

_ELSEWHERE = ("__init__", "cache", "reader", "worker", "domain", "shifts")
"""Modules of `data.streets` that have no say in what the studio looks like; the camera's shift is in the last two."""


def fingerprint(seed: int) -> str:
    """A hash of all that makes source model `seed` what it is."""
    recipe = _recipe()
    options = NetworkOptions.from_dict({**NetworkOptions().to_dict(), **recipe["network"]})
    with torch.device("meta"):
        tensors = {name: list(value.shape) for name, value in build_network(options).state_dict().items()}
    told = [_drawing(), StreetsOptions().content("studio", "train"), recipe, tensors, seed]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _drawing() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(str(streets.__file__)).parent.glob("*.py")):
        if path.stem not in _ELSEWHERE:
            digest.update(f"{path.name} {_code(path)}\n".encode())
    return digest.hexdigest()


def _code(path: Path) -> str:
    """The text of a module without comments, docstrings and spaces, which no picture depends on."""
    kept, begins = [], True
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING):
                begins = True
            elif token.type not in (tokenize.COMMENT, tokenize.NL):
                if not (begins and token.type == tokenize.STRING):
                    kept.append(token.string)
                begins = False
    return "".join("".join(kept).split())


def _recipe() -> dict[str, Any]:
    """The settings of source training that decide its outcome."""
    merged: dict[str, Any] = {}
    for path in overlays(EXPERIMENT, BENCH, EXPERIMENTS):
        _merge(merged, load_yaml(path))
    found = {group: merged.get(group) for group in ("network", "optimizer", "batchnorm", "model")}
    return {
        **found,
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
    path = weights.shipped(BENCH, seed)
    if not path.is_file():
        raise ConfigError(
            f"no source model of seed {seed} is recorded or shipped",
            where="start_from",
            mend=f"train it: stpl fit --bench={BENCH} --experiment={EXPERIMENT} --seed_everything={seed}",
        )
    if weights.entry(path).get("fingerprint") != fingerprint(seed):
        raise ConfigError(
            f"the shipped source model of seed {seed} was trained with another renderer, recipe or network",
            where="start_from",
            mend="`make source` trains it anew",
        )
    return Path(f"{BENCH}:{seed}")


def ship(*, runs: Path = Path("runs"), seeds: int = 5) -> None:
    """Make the shipped source models of `streets` from recorded runs.

    Weights are kept in half precision, statistics in single. What such a model reaches on the studio's evaluation
    drives is measured and kept in its file.

    Args:
        runs: folder of all runs; `source` of the seeds 0 to `seeds` - 1 must be recorded there.
        seeds: how many.

    Raises:
        StplError: a run is missing or torn.
    """
    keys = [RunKey(BENCH, EXPERIMENT, seed) for seed in range(seeds)]
    found = [(key, key.read(runs)) for key in keys]
    for key, record in found:
        if record is None:
            raise ConfigError(f"{key} is not recorded", where=runs, mend="`make source` trains it")
        path = weights.shipped(BENCH, key.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        _ship(key.directory(runs), record, path)
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB", file=sys.stderr)


def _ship(run: Path, record: RunRecord, path: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    state = {name: _halved(name, value) for name, value in weights.tensors(weights.read(last), last).items()}
    losses = [(step, value) for step, name, value in read_metrics(run / METRICS) if name == "train/loss"]
    about = {
        **weights.entry(last),
        "seed": record["seed"],
        "fingerprint": fingerprint(record["seed"]),
        "first_loss": list(losses[0]),
        "versions": record["versions"],
    }
    formats.write_safetensors(path, state, about)
    formats.write_safetensors(path, state, {**about, "studio_miou": studio_miou(path)})


def _halved(name: str, value: Tensor) -> Tensor:
    keep = "running" in name or not value.is_floating_point()
    return value if keep else value.half()


def studio_miou(checkpoint: Path) -> float:
    """The mIoU in percent of a checkpoint on the studio's evaluation drives."""
    overrides = {"checkpoint": str(checkpoint), "data.domain": "source"}
    cli = build_evaluation(Request(bench=BENCH, overrides=overrides))
    with refusals("trainer", among="lightning"):
        cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
    return float(cli.model.evaluation()["miou"])
