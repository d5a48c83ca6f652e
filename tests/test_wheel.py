"""The package as a wheel: built, installed into a fresh environment without network, used in an empty folder."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from repository import REPOSITORY
from stpl.testing import TINY
from stpl.testing.runs import tiny_arguments

pytestmark = pytest.mark.long

Stpl = Callable[..., str]

METHOD = '''
from torch import Tensor
from stpl.data.clip import Batch
from stpl.methods import SelfTraining

class Louder(SelfTraining):
    """Self-training, twice as loud."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {name: 2 * loss for name, loss in super().losses(batch).items()}
'''
TABLES = """
tables:
  - id: table3
    rows: [{row: Louder self-training, experiment: louder, overlays: [mine/louder, "bench/{bench}.pseudo-labels"]}]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; what it depends on is read from the present one.

    `make release` names one that has the wheel and all that it depends on.
    """
    if (made := os.environ.get("STPL_WHEEL_ENVIRONMENT")) is not None:
        return Path(made)
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*build, "--no-index", "--no-build-isolation", "-w", str(folder), str(REPOSITORY)], check=True)
    (wheel,) = folder.glob("stpl-*.whl")
    place = folder / "environment"
    venv.create(place, symlinks=True)
    python = place / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "-q"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = (place / "lib").glob("python*/site-packages")
    (packages / "present.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return place


@pytest.fixture
def stpl(environment: Path, tmp_path: Path) -> Stpl:
    """Call the installed `stpl` in an empty folder; what it prints."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("STPL_", "PYTHON"))}

    def call(*words: object, code: int = 0) -> str:
        command = [str(environment / "bin" / "stpl"), *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return call


def test_it_is_the_installed_package_that_runs(environment: Path, tmp_path: Path) -> None:
    code = "import stpl, stpl.runs.experiments as r; print(stpl.__file__, r.EXPERIMENTS, r.SWEEPS)"
    command = [str(environment / "bin" / "python"), "-c", code]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert all(path.startswith(str(environment)) for path in told.split())


def test_help_and_reports_work_anywhere(stpl: Stpl, tmp_path: Path) -> None:
    assert "mean_teacher" in stpl("fit", "--help")
    assert "no such folder of runs" in stpl("report", code=2)
    (tmp_path / "runs").mkdir()
    assert "Table 3. Objective functions" in stpl("report", "--page=false")
    assert "[1/10] source_only seed 0: to run" in stpl("sweep", "table3", "--dry-run")
    assert "[1/10]" in stpl("sweep", "sweeps/table3.yaml", "--dry-run")
    assert "did you mean 'streets'" in stpl("fit", "--bench=street", "--experiment=stpl", code=2)
    assert "cannot be read" in stpl("sweep", "sweeps/mine.yaml", "--dry-run", code=2)


def test_own_experiments_stand_beside_the_shipped_ones(stpl: Stpl, tmp_path: Path, tiny_streets: Path) -> None:
    """An overlay, a row of a table and a method of the user's own, in the working directory; a sweep over them."""
    (tmp_path / "experiments/mine").mkdir(parents=True)
    (tmp_path / "experiments/tables.yaml").write_text(TABLES)
    (tmp_path / "experiments/mine/louder.yaml").write_text("model: {class_path: loud.Louder}\n")
    (tmp_path / "loud.py").write_text(METHOD)
    options = [word for word in tiny_arguments("x", tiny_streets, steps=2)[2:] if "run.experiment" not in word]
    for experiment in ("self_training", "louder"):
        stpl("fit", "--bench=streets", f"--experiment={experiment}", f"--run.experiment={experiment}", *options,
             "--start_from=null")  # fmt: skip
    losses = [
        float(line.split(",")[2])
        for experiment in ("self_training", "louder")
        for line in (tmp_path / f"runs/streets/{experiment}/seed0/metrics.csv").read_text().splitlines()
        if line.startswith("1,train/loss")
    ]
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-5)
    said = stpl("report", "--page=false")
    assert "Louder" in said  # a narrow screen breaks the title
    assert "Oracle" in said
    (tmp_path / "experiments").rename(tmp_path / "elsewhere")
    assert "unknown experiment 'louder'" in stpl("fit", "--bench=streets", "--experiment=louder", code=2)
    assert "louder" in stpl("fit", "--help", "--experiments=elsewhere")
    assert "Louder" in stpl("report", "--page=false", "--experiments=elsewhere")
    assert "no such folder of experiments" in stpl("report", "--experiments=nowhere", code=2)


def test_a_video_is_adapted_to_in_an_empty_folder(stpl: Stpl, tmp_path: Path, tiny_streets: Path) -> None:
    import numpy as np

    from stpl.data.image import write_png

    (frames,) = tiny_streets.glob("camera-train-*/frames.npy")
    for index, frame in enumerate(np.load(frames)[: TINY.frames]):
        write_png(tmp_path / f"drive/{index:02d}.png", frame.transpose(1, 2, 0))
    size = f"--size={TINY.height},{TINY.width}"
    said = stpl("adapt", "--network=streets", "--video=drive", "--steps=1", "--batch-size=1", size)
    assert "adapted:" in said
    assert (tmp_path / "runs/video/drive/seed0/index.html").stat().st_size > 0


SWEEP = """
method: grid
parameters:
  bench: {value: streets}
  experiment: {value: plugged}
  seed_everything: {values: [0]}
command: ["${env}", "${interpreter}", "-m", "stpl", "fit", "${args}"]
"""


def test_methods_of_other_packages_are_found_by_their_entry_point(
    stpl: Stpl, environment: Path, tmp_path: Path
) -> None:
    """An overlay names the class alone; `stpl sweep check` parses it as `stpl fit` would."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/plugged.yaml").write_text("model: {class_path: Louder}\n")
    (tmp_path / "experiments/tables.yaml").write_text("experiments: {plugged: {overlays: [plugged]}}\n")
    (tmp_path / "mine.yaml").write_text(SWEEP)
    assert "Louder" in stpl("sweep", "check", "mine.yaml", code=2)
    (packages,) = (environment / "lib").glob("python*/site-packages")
    (packages / "a_plugin.py").write_text(METHOD)
    about = packages / "a_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: a-plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[stpl.methods]\nlouder = a_plugin\n")
    assert "1 cells" in stpl("sweep", "check", "mine.yaml")
