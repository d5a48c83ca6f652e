"""`stpl weights ship`: from recorded source models to those that the package ships (see `stpl.runs.shipped`)."""

import sys
from pathlib import Path

from stpl.errors import ConfigError, refusals
from stpl.nn import checkpoint_files, formats, weights
from stpl.runs.fit import build_evaluation
from stpl.runs.record import METRICS, RunKey, RunRecord, read_metrics
from stpl.runs.request import Request
from stpl.runs.shipped import BENCH, EXPERIMENT, fingerprint


def ship(runs: Path, seeds: int) -> None:
    """Make the shipped source models of `streets` from recorded runs; see `stpl weights ship`."""
    keys = [RunKey(BENCH, EXPERIMENT, seed) for seed in range(seeds)]
    found = [(key, key.read(runs)) for key in keys]
    for key, record in found:
        if record is None:
            raise ConfigError(f"{key} is not recorded", where=runs, mend="`make ship` trains it")
        path = checkpoint_files.shipped(BENCH, key.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        _ship(key.directory(runs), record, path)
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB", file=sys.stderr)


def _ship(run: Path, record: RunRecord, path: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    state = {
        name: value if "running" in name or not value.is_floating_point() else value.half()
        for name, value in weights.tensors(weights.read(last), last).items()
    }
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


def studio_miou(checkpoint: Path) -> float:
    """The mIoU in percent of a checkpoint on the studio's evaluation drives."""
    overrides = {"network": str(checkpoint), "data.domain": "source"}
    cli = build_evaluation(Request(bench=BENCH, overrides=overrides))
    with refusals("trainer", among="lightning"):
        cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
    return float(cli.model.evaluation()["miou"])
