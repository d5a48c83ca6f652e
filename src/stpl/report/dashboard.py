"""`stpl dashboard`: the views of other programs on runs and sweeps, W&B's workspace and Optuna's dashboard.

The project's own page needs neither: `stpl report`.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server

from stpl.data.label_space import label_space
from stpl.errors import ConfigError
from stpl.runs.charts import CONFUSION, FEATURES, IOU, PICTURES, PURITY, VIDEO, Chart
from stpl.runs.experiments import check_bench, experiment_folders, find_overlay
from stpl.runs.record import runs_root
from stpl.yaml_files import Section, load_yaml

_HOST = "127.0.0.1"
_STEP = "trainer/global_step"  # the axis that Lightning's logger gives every metric
_LOSSES = "train/([^l]|l[^r]).*"  # all but the learning rate; W&B's expressions know no lookahead


def show_sweeps(bench: str, storage: str | None, port: int) -> None:
    """Show the sweeps of a benchmark in Optuna's dashboard until interrupted; see `stpl dashboard optuna`."""
    from stpl.sweeps.storage import default_url, opened

    dashboard = _imported("optuna_dashboard", "cluster")
    url = storage or default_url(runs_root(), bench)
    file = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not file.is_file():
        raise ConfigError("no sweep has been started", where=file, mend=f"start one: stpl sweep FILE… --bench={bench}")
    with opened(url) as study_storage:
        try:
            server = make_server(_HOST, port, dashboard.wsgi(study_storage), server_class=_Server)
        except (OSError, OverflowError) as error:
            fault = f"cannot listen: {getattr(error, 'strerror', None) or error}"
            raise ConfigError(fault, where=f"{_HOST}:{port}", mend="choose another --port") from error
        with server:
            print(f"optuna-dashboard: http://{_HOST}:{port}/ (Ctrl-C ends it)", flush=True)
            server.serve_forever()


class _Server(ThreadingMixIn, WSGIServer):
    """Answers in threads: wsgiref swallows a Ctrl-C that comes while the main thread answers."""

    daemon_threads = True


def _imported(module: str, extra: str) -> Any:
    """An optional package."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on its own use of pydantic and Optuna
            return import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0].replace("_", "-")
        raise ConfigError(f"{name} is not installed", mend=f"pip install 'stpl[{extra}]'") from error


def definition(view: Any) -> dict[str, Any]:
    """The view as W&B's `upsertView` takes it, the specification not yet a text."""
    spec = view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    names = {"entityName": view.entity} if view.entity else {}
    names |= {"projectName": view.project, "displayName": view.name, "type": "project-view"}
    return {**names, "spec": json.loads(spec)}


def save(view: Any) -> None:
    """Save a view in the user's W&B account; raises `ConfigError` without one, or if W&B refuses it."""
    import wandb as client

    try:
        if os.environ.get("WANDB_MODE") in ("offline", "disabled") or not client.login(prompt=False):
            raise ConfigError(
                "no W&B account is known here",
                mend="call `wandb login`, or write the definition to a file: --out=FILE.json",
            )
        view.entity = view.entity or client.Api().default_entity
        view.save()  # and says where
    except (client.errors.Error, OSError, ValueError) as error:
        raise ConfigError(
            f"W&B refused the view: {str(error).splitlines()[0]}",
            where="/".join(filter(None, (view.entity, view.project))),
            mend="check --entity and --project; the project exists once a run was sent to it",
        ) from error


def workspace(bench: str, project: str, entity: str, experiments: Path | None = None) -> Any:
    """The view: runs of one benchmark, those of one experiment as one curve with its spread over seeds.

    `project` is W&B's; `entity` the user or team that owns it, if empty the account's default; `experiments` the
    folder of the user's own overlays.
    """
    folders = experiment_folders(experiments)
    check_bench(bench, folders)
    overlay = find_overlay(f"bench/{bench}", folders)
    space = label_space(Section(load_yaml(overlay), str(overlay)).section("network").text("label_space"))
    workspaces, expressions = (_imported(f"wandb_workspaces.{name}", "wandb") for name in ("workspaces", "expr"))
    sections = _Panels(bench).sections(space.classes)
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=f"stpl {bench}",
        sections=[workspaces.Section(name=name, panels=found, is_open=True) for name, found in sections.items()],
        settings=workspaces.WorkspaceSettings(x_axis=_STEP, max_runs=20),
        runset_settings=workspaces.RunsetSettings(
            filters=[expressions.Tags().isin([bench])],
            groupby=[expressions.Metric("Group")],
            pinned_columns=[f"summary:{name}" for name in ("val/miou", "selected/miou", "best/miou")],
        ),
    )


class _Panels:
    """Makes the panels of each section, for metrics as `metrics.csv` calls them.

    The benchmark is a part of each panel's identifier: one definition is the same in every call.
    """

    def __init__(self, bench: str) -> None:
        self._bench, self._kinds = bench, _imported("wandb_workspaces.reports.v2", "wandb")

    def sections(self, classes: Sequence[str]) -> dict[str, list[Any]]:
        """Section → panels, in the order of the view."""
        moments = ["val/miou", "selected/miou", "best/miou"]
        ious = {name: f"val/iou/{name}" for name in classes}
        return {
            "mIoU": [
                self._line("mIoU (%)", "val/miou"),
                self._new("BarPlot", "mIoU (%): last, selected without labels, best on labels", metrics=moments),
                self._line("Label-free score", "val/score"),
                self._line("Pixel accuracy (%)", "val/accuracy"),
            ],
            "IoU per class": [
                self._new("BarPlot", "IoU (%) at the end", metrics=[*ious.values()], max_bars_to_show=len(ious)),
                self._new("WeavePanelSummaryTable", None, table_name=IOU),
                *(self._line(f"IoU of {name} (%)", metric) for name, metric in ious.items()),
            ],
            "Feature space": [
                self._line("σ intra-class", "val/sigma_intra"),
                self._line("σ inter-class", "val/sigma_inter"),
                self._line("σ of unit vectors", "val/sigma_intra_normalized", "val/sigma_inter_normalized"),
                self._line("Silhouette", "val/silhouette"),
                self._line("Linear probe, nearest mean (%)", "val/linear_probe", "val/nearest_mean"),
                self._lines("Purity of the k nearest neighbours (%)", "val/purity@.*"),
                self._chart(PURITY),
                self._chart(FEATURES),
            ],
            "Temporal consistency": [
                self._line("mTC (%)", "val/mtc"),
                self._line("PL-PredConsis (%)", "val/pl_predconsis"),
                self._line("PL-Warped (%)", "val/pl_warped"),
                self._line("PL-Consistency (%)", "val/pl_consistency"),
                self._lines("VPQ over windows of s frames (%)", "val/vpq@.*"),
            ],
            "Predictions": [
                self._new("MediaBrowser", "Predictions", media_keys=[PICTURES], num_columns=2),
                self._new("MediaBrowser", "Video", media_keys=[VIDEO], num_columns=1),
                self._chart(CONFUSION),
            ],
            "Training": [
                self._lines("Losses", _LOSSES),
                self._line("Learning rate", "train/lr"),
                self._line("Change of the encoder's weights (%)", "val/moved"),
            ],
        }

    def _line(self, title: str, *metrics: str) -> Any:
        return self._new("LinePlot", title, x=_STEP, y=list(metrics))

    def _lines(self, title: str, pattern: str) -> Any:
        return self._new("LinePlot", title, x=_STEP, metric_regex=pattern)

    def _chart(self, chart: Chart) -> Any:
        return self._new(
            "CustomChart",
            None,
            query={"summaryTable": {"tableKey": chart.table}},
            chart_name=chart.preset,
            chart_fields=chart.fields,
            chart_strings={"title": chart.title},
        )

    def _new(self, kind: str, title: str | None, **settings: Any) -> Any:
        panel = getattr(self._kinds, kind)(**settings, **({"title": title} if title else {}))
        described = repr((self._bench, kind, title, sorted(settings.items())))
        panel._id = hashlib.sha256(described.encode()).hexdigest()[:11]
        return panel
