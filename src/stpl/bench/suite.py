"""`stpl bench suite`: how long a user waits before anything happens: for help, and for a trial's first step."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from stpl.bench.measure import interleaved, times_table, write_json
from stpl.errors import ConfigError

_STEP = "first step of a trial"
_TINY = {"height": 48, "width": 96, "frames": 3, "train_drives": 4, "val_drives": 2, "camera_val_drives": 2}


def suite(repeats: int = 3, experiments: Path = Path("experiments"), json: Path | None = None) -> None:
    """Seconds until `stpl --help` has answered and until a trial takes its first step, each in a fresh process.

    The trial is STPL on a tiny `streets` that is drawn already, from fresh weights, its starting point evaluated; it
    is compared with what Python takes to import torch and Lightning, below which no trial can be.

    Args:
        repeats: rounds that are measured; all take part in each.
        experiments: folder of the overlays; the repository's.
        json: file for the figures.

    Raises:
        ConfigError: the folder of overlays is not there.
    """
    if not (experiments / "base.yaml").is_file():
        raise ConfigError("no overlays are here", where=experiments, mend="call it in the repository's folder")
    with TemporaryDirectory() as folder:
        commands = {
            "stpl --help": ["-m", "stpl", "--help"],
            _STEP: ["-m", "stpl.bench.suite", *_trial(Path(folder))],
            "python": ["-c", "pass"],
            "import torch, lightning": ["-c", "import torch, lightning"],
        }
        environment = {**os.environ, "STPL_RUNS": f"{folder}/runs"}
        actions = {name: partial(_run, [sys.executable, *words], environment) for name, words in commands.items()}
        timings = interleaved(actions, repeats)
    print(times_table("start-up", timings, "import torch, lightning", {}))
    figures = {
        "seconds_help": timings["stpl --help"].median,
        "seconds_first_step": timings[_STEP].median,
        "seconds_python": timings["python"].median,
        "seconds_imports": timings["import torch, lightning"].median,
        "spread": {name: timing.spread for name, timing in timings.items()},
    }
    write_json(json, figures)


def _trial(folder: Path) -> list[str]:
    """The trial's command line; its data is drawn by the first, unmeasured round."""
    settings = {
        "bench": "streets",
        "experiment": "stpl",
        "start_from": "null",
        "trainer.max_steps": 1,
        "trainer.val_check_interval": 1,
        "data.init_args.root": folder / "streets",
        **{f"data.init_args.options.{name}": value for name, value in _TINY.items()},
    }
    return [f"--{name}={value}" for name, value in settings.items()]


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")


def _until_first_step(arguments: list[str]) -> None:
    """Run a trial and leave at once when its first step begins."""
    from stpl.fit import fit
    from stpl.methods import Method

    Method.training_step = lambda *_: os._exit(0)  # type: ignore[method-assign]
    fit(arguments)
    raise RuntimeError("the trial took no step")


if __name__ == "__main__":
    _until_first_step(sys.argv[1:])
