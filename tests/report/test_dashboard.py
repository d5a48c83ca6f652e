"""`stpl dashboard`: the workspace that W&B is given, and Optuna's dashboard on a sweep's database."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import pytest

from repository import REPOSITORY
from stpl.cli import main
from stpl.data.label_space import SYNTHIA_12, VIPER_15
from stpl.runs.charts import CONFUSION, FEATURES, PURITY
from stpl.runs.record import flat
from stpl.sweeps.storage import default_url, opened
from suite_writer import write_suite
from waiting import PATIENCE
from wandb_stub import WandbStub

KEY = "5" * 40


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither an account nor a way to ask for one."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    monkeypatch.chdir(REPOSITORY)
    return tmp_path


def define(out: Path, *options: str) -> dict[str, Any]:
    assert main(["dashboard", "wandb", f"--out={out}", *options]) == 0
    definition: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return definition


def sections(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Section → configurations of its panels."""
    found = spec["section"]["panelBankConfig"]["sections"]
    return {section["name"]: [panel["config"] for panel in section["panels"]] for section in found}


def metrics(panels: list[dict[str, Any]]) -> list[str]:
    return [name for panel in panels for name in panel.get("metrics", [])]


def patterns(panels: list[dict[str, Any]]) -> list[str]:
    return [panel["metricRegex"] for panel in panels if panel.get("useMetricRegex")]


def workspaces() -> None:
    pytest.importorskip("wandb_workspaces", reason="pip install 'stpl[wandb]'")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workspace_shows_what_runs_log(no_account: Path) -> None:
    """Every metric it names is one that a run logs, and every one of the feature space is shown."""
    workspaces()
    definition = define(no_account / "view.json")
    assert definition.keys() == {"projectName", "displayName", "type", "spec"}
    assert definition["type"] == "project-view"
    shown = sections(definition["spec"])
    assert list(shown) == [
        "mIoU", "IoU per class", "Feature space", "Temporal consistency", "Predictions", "Training",
    ]  # fmt: skip
    assert {"val/miou", "selected/miou", "best/miou"} <= set(metrics(shown["mIoU"]))
    bars, _, *curves = shown["IoU per class"]
    assert bars["metrics"] == [f"val/iou/{name}" for name in VIPER_15.classes]
    assert metrics(curves) == bars["metrics"]

    write_suite(no_account / "runs", {"stpl": 0.3}, seeds=1)
    record = json.loads((no_account / "runs/streets/stpl/seed0/result.json").read_text(encoding="utf-8"))
    logged = {f"val/{name}" for name in flat({"feature_space": record["last"]["feature_space"]})}
    space = shown["Feature space"]
    unseen = {name for name in logged if not any(re.fullmatch(p, name) for p in patterns(space))}
    assert unseen == {
        "val/sigma_intra", "val/sigma_inter", "val/silhouette", "val/linear_probe", "val/nearest_mean",
    }  # fmt: skip
    assert unseen <= set(metrics(space))
    drawn = {panel["panelDefId"]: panel["fieldSettings"] for panel in space if "panelDefId" in panel}
    assert drawn == {chart.preset: chart.fields for chart in (PURITY, FEATURES)}
    assert f'"{CONFUSION.table}"' in json.dumps(shown["Predictions"])
    assert "val/moved" in metrics(shown["Training"])
    (losses,) = patterns(shown["Training"])
    names = ("loss", "l1", "self_training", "lr")
    assert [bool(re.fullmatch(losses, f"train/{name}")) for name in names] == [True, True, True, False]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workspace_is_of_one_benchmark_and_always_the_same(no_account: Path) -> None:
    workspaces()
    first, again = (define(no_account / f"{name}.json", "--bench=synthia", "--entity=lab") for name in "ab")
    assert first == again
    assert first["entityName"] == "lab"
    runs = first["spec"]["section"]["runSets"][0]
    (only,) = runs["filters"]["filters"]
    assert (only["key"], only["value"]) == ({"section": "run", "name": "tags"}, ["synthia"])
    assert runs["grouping"] == [{"section": "run", "name": "group"}]
    found = metrics(sections(first["spec"])["IoU per class"])
    assert set(found) == {f"val/iou/{name}" for name in SYNTHIA_12.classes}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workspace_is_saved_through_the_real_client(no_account: Path) -> None:
    workspaces()
    file = define(no_account / "view.json", "--entity=tester")
    with WandbStub() as stub:
        call = [sys.executable, "-W", "ignore", "-m", "stpl", "dashboard", "wandb"]
        environment = {**os.environ, "WANDB_BASE_URL": stub.url, "WANDB_API_KEY": KEY, "WANDB_DIR": str(no_account)}
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        assert stub.unknown == []
        (view,) = stub.views
    assert {name: view[name] for name in file if name != "spec"} == {
        name: file[name] for name in file if name != "spec"
    }
    assert json.loads(view["spec"]) == file["spec"]
    assert "View saved: " in done.stderr
    assert "/tester/stpl?nw=" in done.stderr
    assert KEY not in done.stdout + done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workspace_needs_an_account_or_a_file(no_account: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspaces()
    assert main(["dashboard", "wandb"]) == 2
    message = capsys.readouterr().err
    assert "no W&B account is known here" in message
    assert "--out=FILE.json" in message
    assert main(["dashboard", "wandb", "--bench=street"]) == 2
    assert "did you mean 'streets'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "module", "mend"),
    [
        ("wandb", "wandb_workspaces.workspaces", "pip install 'stpl[wandb]'"),
        ("optuna", "optuna_dashboard", "pip install 'stpl[cluster]'"),
    ],
)
def test_absent_package_is_named_with_the_command_that_installs_it(
    verb: str, module: str, mend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["dashboard", verb]) == 2
    message = capsys.readouterr().err
    assert "is not installed" in message
    assert mend in message


@pytest.fixture
def sweep_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A sweep of one trial beside the runs of streets."""
    monkeypatch.setenv("STPL_RUNS", str(tmp_path))
    url = default_url(tmp_path, "streets")
    with opened(url) as storage:
        study = optuna.create_study(storage=storage, study_name="streets/k", direction="maximize")
        study.add_trial(optuna.create_trial(value=41.5, params={}, distributions={}))
    return url


FAKE = """
import json
import optuna

def wsgi(storage):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "application/json")])
        names = [{"study_name": name} for name in optuna.get_all_study_names(storage=storage)]
        return [json.dumps({"study_summaries": names, "path": environ["PATH_INFO"]}).encode()]
    return application
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package `optuna_dashboard` that tells the names of studies."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "optuna_dashboard.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path / "fake")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    real = sys.modules.pop("optuna_dashboard", None)
    yield
    sys.modules.pop("optuna_dashboard", None)
    if real is not None:
        sys.modules["optuna_dashboard"] = real


@pytest.fixture(params=["fake", "real"])
def served(request: pytest.FixtureRequest, sweep_database: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A dashboard in a process of its own, and its port."""
    if request.param == "fake":
        request.getfixturevalue("fake")
    elif find_spec("optuna_dashboard") is None:
        pytest.skip("needs optuna-dashboard: pip install 'stpl[cluster]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = [sys.executable, "-m", "stpl", "dashboard", "optuna", f"--port={port}"]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process, port
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_dashboard_shows_the_sweep_on_this_machine_alone_until_interrupted(
    served: tuple[subprocess.Popen[str], int],
) -> None:
    process, port = served
    assert process.stdout is not None
    assert process.stdout.readline() == f"optuna-dashboard: http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=PATIENCE) as answer:
        studies = json.load(answer)["study_summaries"]
    assert [study["study_name"] for study in studies] == ["streets/k"]
    with pytest.raises(OSError, match=r"."):  # Linux answers at all of 127/8 where a server listens everywhere
        socket.create_connection(("127.0.0.2", port), timeout=5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 130


@pytest.mark.usefixtures("fake")
def test_dashboard_says_why_it_cannot_start(
    sweep_database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["dashboard", "optuna", f"--storage={sweep_database}", f"--port={port}"]) == 2
    assert f"127.0.0.1:{port}: cannot listen: Address already in use" in capsys.readouterr().err
    assert main(["dashboard", "optuna", "--port=99999"]) == 2
    assert "127.0.0.1:99999: cannot listen" in capsys.readouterr().err
    assert main(["dashboard", "optuna", "--bench=viper"]) == 2
    assert "viper/sweeps.sqlite3: no sweep has been started" in capsys.readouterr().err
    assert not (tmp_path / "viper").exists()
