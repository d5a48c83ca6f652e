"""Do two processes with half of each batch train as one with all of it? Checked for several methods in one pair.

`python -m stpl.testing.processes PORT RANK PLAN` is one of the two.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch

from stpl.nn import weights
from stpl.nn.discriminator import Discriminator
from stpl.runs.build import build
from stpl.runs.record import METRICS, read_metrics
from stpl.testing.runs import draw_tiny, exactly, fit_until, tiny_arguments

Plan = Sequence[tuple[Sequence[str], int | None]]
"""Command lines of `stpl fit`, each with the step at which it is to crash, if any. One pair of processes runs them all
in turn, since starting a process takes longer than a run."""

_FROZEN = (
    "--batchnorm.policy=frozen",
    "--optimizer.name=sgd",  # AdamW takes a gradient of zero, give or take a rounding, for a direction
    "--trainer.max_steps=1",
    "--trainer.val_check_interval=1",
    "--trainer.limit_val_batches=1",
    "--data.init_args.loading.eval_batch_size=2",
    "--trainer.accelerator=cpu",
)


def check_ranks(cases: Mapping[str, Sequence[str]], folder: Path, *, streets: Path | None = None) -> None:
    """Check that each method trains the same with two processes as with one.

    Losses, weights, and gradients as the optimiser has kept them are compared after one step, to seven digits.
    Statistics are frozen: a process normalises by its own batch.

    Args:
        cases: experiments, each with more arguments of `stpl fit`.
        folder: an empty folder to work in.
        streets: folder of the tiny benchmark, drawn if it is not there; in `folder` if not given.

    Raises:
        AssertionError: saying what does not hold, and of which method.
    """
    drawn = streets or folder / "streets"
    with mock.patch.dict(os.environ, {"STPL_RUNS": str(folder / "runs")}):
        draw_tiny(drawn)
        compare_ranks(cases, folder, drawn)


def compare_ranks(cases: Mapping[str, Sequence[str]], folder: Path, streets: Path) -> None:
    """`check_ranks` where `$STPL_RUNS` is `<folder>/runs` already."""
    plans = {devices: [_arguments(name, cases[name], streets, devices) for name in cases] for devices in (1, 2)}
    processes = start_ranks([(args, None) for args in plans[2]], folder)
    try:
        run_plan([(args, None) for args in plans[1]])
        assert [process.wait(180) for process in processes] == [0, 0], "two processes do not run to the end"
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for name, args in zip(cases, plans[1], strict=True):
        method = build(args)[0].model
        apart = [place for place, module in method.named_modules() if isinstance(module, Discriminator)]
        _compare(name, [folder / "runs" / "streets" / f"{name}-{devices}" / "seed0" for devices in (1, 2)], apart)


def _arguments(name: str, settings: Sequence[str], streets: Path, devices: int) -> list[str]:
    mine = (f"--trainer.devices={devices}", f"--run.experiment={name}-{devices}", "--start_from=null")
    return tiny_arguments(name, streets, *settings, *_FROZEN, *mine, steps=1, batch=2 // devices)


def _compare(name: str, runs: Sequence[Path], apart: Sequence[str]) -> None:
    """Weights but for those `apart`: they are Adam's and follow the sign of a rounding. Gradients as kept by it."""
    one, two = (weights.read(run / "checkpoints" / "last.ckpt") for run in runs)
    for a, b in zip(*map(losses_of, runs), strict=True):
        assert abs(a - b) <= 1e-6 * abs(a), f"{name}: two processes have the loss {b}, one has {a}"
    for tensor, value in one["state_dict"].items():
        if not tensor.startswith(tuple(f"{place}." for place in apart)):
            close = torch.allclose(two["state_dict"][tensor].double(), value.double(), rtol=1e-6, atol=1e-9)
            assert close, f"{name}: two processes end with another {tensor} than one"
    moments, found = (content["optimizer_states"][0]["state"] for content in (one, two))
    assert moments.keys() == found.keys(), f"{name}: other parameters have a gradient in two processes than in one"
    for index, state in moments.items():
        for kind in {"momentum_buffer", "exp_avg"} & state.keys():
            close = torch.allclose(found[index][kind], state[kind], rtol=0, atol=1e-6 * float(state[kind].abs().max()))
            assert close, f"{name}: two processes have other gradients than one"


def losses_of(run: Path) -> list[float]:
    """The sum of the losses at each step of a run."""
    return [value for _, name, value in read_metrics(run / METRICS) if name == "train/loss"]


def run_plan(plan: Plan) -> None:
    """Run all command lines in order, those with frozen statistics in exact arithmetic."""
    for args, crash in plan:
        with exactly() if "--batchnorm.policy=frozen" in args else nullcontext():
            fit_until(crash, args)


def start_ranks(plan: Plan, folder: Path, module: str = "stpl.testing.processes") -> list[subprocess.Popen[bytes]]:
    """Two processes that run a plan together, as a launcher would start them; the caller waits for them."""
    path = folder / "plan.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-W", "error::UserWarning:stpl", "-m", module, port]
    return [subprocess.Popen([*command, str(rank), str(path)]) for rank in range(2)]


def join(port: str, rank: str) -> None:
    """Have Lightning find the other process."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "LOCAL_RANK": rank}


def main(port: str, rank: str, plan: str) -> None:
    """Run the plan as one of two."""
    join(port, rank)
    run_plan(json.loads(Path(plan).read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # all is written; gloo's threads now and then abort a process while the interpreter takes itself apart
