"""Several processes, one result: two that share the clips do what one does with all of them.

Two gloo processes on the CPU run every row of the tables in turn (`ddp_rank.py`); one run starts its second itself.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from repository import REPOSITORY, SUPPORT
from stpl.data.steps import evaluation_share
from stpl.data.streets import StreetsOptions, open_split
from stpl.errors import ConfigError
from stpl.nn import weights
from stpl.runs import trainer as trainers
from stpl.runs.build import build
from stpl.runs.fit import fit
from stpl.runs.record import RunRecord, read_record
from stpl.testing.processes import run_plan, start_ranks
from stpl.training.evaluation import ClipSamples
from waiting import PATIENCE

pytestmark = pytest.mark.long

# 9 evaluation clips, and half of them end within a video.
STREETS = StreetsOptions(height=48, width=96, frames=4, train_drives=3, val_drives=1, camera_val_drives=3)
ONE_STEP = ("--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.limit_val_batches=1")
ROWS = (
    "batchnorm_statistics",
    "self_training",
    "duplicate",
    "temporal",
    "spatial",
    "naive",
    "stpl",
    "stpl_concat",
    "oracle",
)


def arguments(streets: Path, experiment: str, name: str, *extra: str, devices: int = 1, batch: int = 2) -> list[str]:
    """A run of two steps of two clips, each in one process or shared by several."""
    settings: dict[str, object] = {
        f"data.init_args.options.{k}": getattr(STREETS, k)
        for k in ("height", "width", "frames", "train_drives", "val_drives", "camera_val_drives")
    }
    settings |= {
        "data.init_args.root": streets,
        "data.init_args.draw_workers": 1,
        "data.init_args.loading.batch_size": batch // devices,
        "data.init_args.loading.eval_batch_size": 2,
        "network.architecture.width": 8,
        "trainer.precision": "32-true",
        "trainer.accelerator": "cpu",
        "trainer.devices": devices,
        "run.experiment": name,
        "run.log_every": 1,
    }
    if experiment != "source_only":
        settings |= {"trainer.max_steps": 2, "trainer.val_check_interval": 2}
    return ["--bench=streets", f"--experiment={experiment}", *(f"--{k}={v}" for k, v in settings.items()), *extra]


class Runs:
    """The folder of all runs of this file: `alone/…` by one process, `together/…` by two."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        return self.root / "runs" / "streets" / name / "seed0"

    def record(self, name: str) -> RunRecord:
        record = read_record(self.folder(name))
        assert record is not None
        return record

    def losses(self, name: str) -> dict[tuple[str, str], float]:
        with (self.folder(name) / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["name"].startswith("train/")]
        found = {(row["step"], row["name"]): float(row["value"]) for row in rows}
        assert len(found) == len(rows)  # one process alone wrote them
        return found

    def checkpoint(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = weights.read(self.folder(name) / "checkpoints" / "last.ckpt")
        return content


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Every row by one process, and by two at the same time."""
    root = tmp_path_factory.mktemp("ddp")
    for domain in ("studio", "camera"):
        for split in ("train", "val"):
            open_split(root, domain, split, STREETS, 1)
    # SGD, since AdamW takes a gradient of zero, give or take a rounding, for a direction.
    frozen = ["--batchnorm.policy=frozen", "--optimizer.name=sgd", *ONE_STEP]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STPL_RUNS", str(root / "runs"))
        patch.chdir(REPOSITORY)
        patch.setenv("PYTHONPATH", str(SUPPORT), prepend=os.pathsep)
        fit(arguments(root, "source", "source"))
        both = {name: [arguments(root, name, f"{name}-{n}", *frozen, devices=n) for n in (1, 2)] for name in ROWS}
        both["source_only"] = [arguments(root, "source_only", f"source_only-{n}", devices=n) for n in (1, 2)]
        moving = ["--batchnorm.policy=train", "--run.checkpoint_every=1", "--trainer.limit_val_batches=1"]
        whole, cut = (arguments(root, "stpl", name, *moving, devices=2) for name in ("whole", "cut"))
        plan = [(two, None) for _, two in both.values()] + [(whole, None), (cut, 2), (cut, None)]
        ranks = start_ranks(plan, root, "ddp_rank")
        try:
            run_plan([(one, None) for one, _ in both.values()])
            assert [process.wait(PATIENCE) for process in ranks] == [0, 0]
        finally:
            for process in ranks:
                process.kill()
                process.wait()
        yield Runs(root)


@pytest.mark.parametrize("row", ROWS)
def test_two_halves_of_a_batch_train_as_the_whole(row: str, runs: Runs) -> None:
    """Losses, weights, and the gradients as the optimiser has kept them: the same to seven digits."""
    assert runs.losses(f"{row}-2") == pytest.approx(runs.losses(f"{row}-1"), rel=1e-6)
    one, two = (runs.checkpoint(f"{row}-{ranks}") for ranks in (1, 2))
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-6, atol=1e-9, msg=name)
    moments, found = (c["optimizer_states"][0]["state"] for c in (one, two))
    assert moments.keys() == found.keys()  # the same parameters got none
    assert bool(moments) == (row != "batchnorm_statistics")
    for index, state in moments.items():
        gradient = state["momentum_buffer"]
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[index]["momentum_buffer"], gradient, rtol=0, atol=1e-6 * scale)


def test_the_same_evaluation_to_the_last_digit(runs: Runs) -> None:
    """Nine clips in batches of two: one process has four of them, the other five, and the boundary cuts a video."""
    one, two = (runs.record(f"source_only-{ranks}") for ranks in (1, 2))
    assert one["last"] == two["last"]
    assert {"vpq", "mtc", "pl_consistency_kept"} <= one["last"]["temporal"].keys()
    assert {"silhouette", "purity"} <= one["last"]["feature_space"].keys()
    assert len(one["last"]["scores"]) == 3
    for name in ("features", "samples", "evaluation"):
        alone, shared = (np.load(runs.folder(f"source_only-{ranks}") / f"{name}.npz") for ranks in (1, 2))
        assert alone.files == shared.files
        for key in alone.files:
            np.testing.assert_array_equal(alone[key], shared[key], err_msg=f"{name}.{key}")
    assert len(shared["keys"]) == 9


def test_processes_measure_every_kind_of_statistics_together(runs: Runs) -> None:
    """Renewed ones differ: a process renews from batches of its own size."""
    alone, shared = (np.load(runs.folder(f"source_only-{ranks}") / "statistics.npz") for ranks in (1, 2))
    assert alone.files == shared.files
    for key in ("step", "keys", "running"):
        np.testing.assert_array_equal(alone[key], shared[key])
    for kind in ("original", "all"):
        assert shared[kind].shape == alone[kind].shape
        np.testing.assert_array_equal(shared[kind].sum((1, 2)), alone[kind].sum((1, 2)))  # each clip once, in its place


def test_a_shared_run_that_is_resumed_ends_with_the_same_weights(runs: Runs) -> None:
    """To the last bit, with BatchNorm that moves: its statistics are the same in all processes at every step."""
    whole, cut = (runs.checkpoint(name)["state_dict"] for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert runs.losses("whole") == runs.losses("cut")
    assert runs.record("whole")["last"] == runs.record("cut")["last"]


def test_what_processes_tell_each_other(runs: Runs) -> None:
    first, second = (json.loads((runs.root / f"{rank}.json").read_text()) for rank in range(2))
    assert first["means"][0] == second["means"][0] == pytest.approx([0.05, 0.05])  # of 0 and 0.1·1
    assert (first["means"][1], second["means"][1]) == ([0.0, 0.0], pytest.approx([0.1, 0.1]))  # does not move
    assert (first["items"], second["items"]) == (["of 0", "of 1"], ["of 1"])
    assert first["decision"] == second["decision"] == "by 0"


def test_fit_starts_its_other_processes_itself(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """On a real command line: both processes end, one of them writes, and neither says anything."""
    args = arguments(runs.root, "source_only", "launched", devices=2)
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "PL_GLOBAL_SEED")}
    done = subprocess.run(
        [sys.executable, "-m", "stpl", "fit", *args], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert runs.record("launched")["last"] == runs.record("source_only-1")["last"]
    fit(args)
    assert capsys.readouterr().err.count("recorded already") == 1


def test_several_devices_need_a_command_line(runs: Runs) -> None:
    with pytest.raises(ConfigError, match="2 processes are started by a command line, and this run was not"):
        fit(arguments(runs.root, "stpl", "called", devices=2))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("--batchnorm.synchronized=true", "SyncBatchNorm exists for GPUs only"),
        ("--trainer.strategy=fsdp", "not supported"),
        ("--trainer.strategy=ddp_spawn", "'ddp_spawn' is not supported"),
    ],
)
def test_what_two_processes_cannot_do_is_refused(setting: str, message: str, runs: Runs) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        build(arguments(runs.root, "stpl", "refused", setting, devices=2))


@pytest.mark.parametrize("world_size", [1, 2])
def test_batchnorm_is_synchronised_over_several_gpus_only(world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no synchronised BatchNorm on the CPU, so this looks at what Lightning is told."""
    built: list[dict[str, Any]] = []

    def trainer(**settings: Any) -> SimpleNamespace:
        built.append(settings)
        root = SimpleNamespace(root_device=torch.device("cuda", 0))
        return SimpleNamespace(world_size=world_size, strategy=root)

    monkeypatch.setattr(trainers, "Trainer", trainer)
    trainers.build_trainer({"devices": world_size}, synchronized=True, leaves_idle=True)
    assert built[-1].get("sync_batchnorm", False) == (world_size == 2)


@pytest.mark.parametrize(("length", "size", "ranks"), [(9, 2, 1), (9, 2, 2), (9, 1, 4), (7, 3, 3), (16, 4, 3)])
def test_processes_share_the_evaluation_by_whole_batches(length: int, size: int, ranks: int) -> None:
    shares = [evaluation_share(length, batch_size=size, rank=r, world_size=ranks) for r in range(ranks)]
    assert [clip for share in shares for clip in share] == list(range(length))
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]
    assert all(len(share) > 0 and share.start == next(iter(share)) and share.start % size == 0 for share in shares)


def test_too_few_evaluation_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"9 evaluation clips in batches of 5 are too few for 3 processes"):
        evaluation_share(9, batch_size=5, world_size=3)


@pytest.mark.parametrize("seed", range(8))
def test_samples_of_stretches_join_to_those_of_the_whole(seed: int) -> None:
    """Videos of random lengths, cut anywhere, also within a video and several times within one."""
    rng = np.random.default_rng(seed)
    keys = [f"v{video}/{frame}" for video, n in enumerate(rng.integers(1, 9, 30)) for frame in range(n)]
    cuts = sorted(rng.choice(np.arange(1, len(keys)), 5, replace=False).tolist())
    stretches = [keys[a:b] for a, b in zip([0, *cuts], [*cuts, len(keys)], strict=True)]
    joined = ClipSamples.joined([samples(stretch) for stretch in stretches]).arrays()
    assert joined["keys"].tolist() == samples(keys).arrays()["keys"].tolist()


def samples(keys: list[str]) -> ClipSamples:
    blank = torch.zeros(len(keys), 4, 6, dtype=torch.int64)
    found = ClipSamples()
    found.update(keys, torch.zeros(len(keys), 3, 4, 6, dtype=torch.uint8), blank)
    return found
