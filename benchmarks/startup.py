"""How long a user waits before anything happens: for help, and for the first step of a run."""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import Action, Figures, interleaved, report, run
from stpl.sweeps.launcher import Launcher

_UNTIL_FIRST_STEP = """
import os, sys
from stpl.training import Method
from stpl.runs.fit import fit
Method.training_step = lambda *_: os._exit(0)
fit(sys.argv[1:])
raise RuntimeError("the run took no step")
"""
_TINY = {"height": 48, "width": 96, "frames": 3, "train_drives": 4, "val_drives": 2, "camera_val_drives": 2}


def startup(repeats: int = 3) -> Figures:
    """Seconds until `stpl --help` has answered, until a run takes its first step, and of a sweep's trial without steps.

    The run is STPL on a tiny `streets` that is drawn already, from fresh weights, its starting point evaluated; it is
    compared with what Python takes to import torch and Lightning, below which no fresh process can be. The trial is the
    same with no step to take, from a sweep's launcher: what every trial after the first one takes beside training.

    Args:
        repeats: rounds that are measured; all take part in each.
    """
    with TemporaryDirectory() as name, Launcher(prepared=True) as launcher:
        folder = Path(name)
        environment = {**os.environ, "STPL_RUNS": f"{folder}/runs"}
        commands = {
            "stpl --help": ["-m", "stpl", "--help"],
            "first step of a run": ["-c", _UNTIL_FIRST_STEP, *_arguments(folder, steps=1)],
            "python": ["-c", "pass"],
            "import torch, lightning": ["-c", "import torch, lightning"],
        }
        actions: dict[str, Action] = {name: partial(_run, words, environment) for name, words in commands.items()}
        actions["a sweep's trial of no step"] = partial(_run_trial, launcher, folder, environment)
        return report("start-up", interleaved(actions, repeats), "import torch, lightning")


def _arguments(folder: Path, steps: int) -> list[str]:
    """The run's arguments; its data is drawn by the first, unmeasured round."""
    settings = {
        "bench": "streets",
        "experiment": "stpl",
        "start_from": "null",
        "trainer.max_steps": steps,
        "trainer.val_check_interval": 1,
        "data.init_args.root": folder / "streets",
        **{f"data.init_args.options.{name}": value for name, value in _TINY.items()},
    }
    return [f"--{name}={value}" for name, value in settings.items()]


def _run(words: list[str], environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, *words], env=environment, stdout=subprocess.DEVNULL, check=True)


def _run_trial(launcher: Launcher, folder: Path, environment: dict[str, str]) -> None:
    shutil.rmtree(folder / "runs", ignore_errors=True)
    command, log = [sys.executable, "-m", "stpl", "fit", *_arguments(folder, steps=0)], folder / "log.txt"
    if launcher.start(command, log, environment).wait():
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text()}")


if __name__ == "__main__":
    run(startup)
