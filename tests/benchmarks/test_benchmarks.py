"""The benchmarks at a tiny size: what they compare is equal, and what they write has its keys. Never absolute times."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import contrast, data, evaluation, gpu, loader, measure, startup, step, warp
from benchmarks.measure import Figures, in_processes, interleaved, parser, run
from repository import REPOSITORY, SUPPORT
from stpl.cli import main
from stpl.data.sets import data_set
from stpl.losses.pixel_contrast import pixel_contrast
from stpl.nn.deeplab import DeepLabV2


def bench(tmp_path: Path, part: Callable[..., Figures], *args: str) -> dict[str, Any]:
    """Run a part with options and read its figures."""
    file = tmp_path / "figures.json"
    run(part, [*args, f"--json={file}"])
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures


@pytest.mark.long
def test_contrast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench(tmp_path, contrast.contrast, "--n=600", "--d=16", "--classes=4", "--repeats=3")
    assert (figures["n"], figures["d"], figures["classes"]) == (600, 16, 4)
    assert {"stpl", "dense", "matrix products"} <= figures["seconds"].keys() == figures["spread"].keys()
    assert min(figures["seconds"].values()) > 0
    assert figures["gradient_error"] < 1e-5
    peaks = figures["peak_mb"]
    if peaks["stpl"] is not None:  # the dense form keeps several matrices of 600×600 (1.4 MB)
        assert peaks["stpl"] < peaks["dense"]
    printed = capsys.readouterr().out
    assert "matrix products" in printed
    assert "dense" in printed


def test_the_dense_form_is_the_loss() -> None:
    queries, keys, labels = contrast.sample(80, 8, 3)
    assert contrast.dense(queries, keys, labels).item() == pytest.approx(
        pixel_contrast(queries, keys, labels, labels).item(), rel=1e-5
    )


@pytest.mark.slow
def test_warp(tmp_path: Path) -> None:
    figures = bench(tmp_path, warp.warp, "--height=9", "--width=17", "--channels=3", "--repeats=2")
    assert figures["difference_integral"] == 0
    assert figures["difference"] < 1e-5
    assert figures["seconds"]["loop"] > figures["seconds"]["stpl"] > 0


def test_the_loop_is_the_warp_beyond_the_border() -> None:
    features, flow = torch.arange(12.0).view(1, 1, 3, 4), torch.full((1, 2, 3, 4), -9.0)
    assert torch.equal(warp.loop(features, flow), torch.zeros(1, 1, 3, 4))


@pytest.fixture
def small_step() -> dict[str, Any]:
    network = {"depth": 18, "width": 8, "dilations": [1, 2], "normalization": "imagenet"}
    return {"height": 48, "width": 64, "network": network}


@pytest.mark.long
def test_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "FORMS", ("stpl", "plain"))  # each in a process of its own
    options = ("--network.depth=18", "--network.width=8", "--network.dilations=[1,2]")
    figures = bench(tmp_path, step.step, "--height=48", "--width=64", *options, "--repeats=1")
    assert set(figures["seconds"]) == set(step.FORMS)
    assert min(figures["seconds"].values()) > 0
    assert figures["network"]["depth"] == 18


@pytest.mark.slow
def test_step_of_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, its steps in this process: those of fresh ones are timed by `test_step`."""

    def here(target: str, cases: dict[str, dict[str, Any]], repeats: int) -> tuple[object, dict[str, float]]:
        assert target == "benchmarks.step:prepare"
        actions = {name: step.prepare(**case) for name, case in cases.items()}
        return interleaved(actions, repeats, warm=0), dict.fromkeys(cases, 1.0)

    monkeypatch.setattr(step, "in_processes", here)
    options = ("--network.depth=18", "--network.width=8", "--network.dilations=[1,2]", "--experiment=da_vsn")
    figures = bench(tmp_path, step.step, "--height=64", "--width=64", *options, "--repeats=1")
    assert set(figures["seconds"]) == {"stpl", "da_vsn"}
    assert "one clip of 2 frames of the target, one of the source" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment",
    [
        "source_only",
        "oracle",
        "ur",
        "cbst",
        "crst_lrent",
        "hcl",
        "mean_teacher",
        "pixmatch",
        "tps",
        "rda",
        "vat",
        "vat_vst",
        "advent",
        "minent",
    ],
)
def test_every_row_has_a_step_to_time(experiment: str) -> None:
    network = DeepLabV2(18, 8, (1, 2)).to_dict()["init_args"]
    assert torch.as_tensor(step.prepare(experiment, 64, 64, network)()).isfinite()


@pytest.mark.slow
def test_all_forms_take_the_same_step(small_step: dict[str, Any]) -> None:
    """Two steps: the second loss shows that the first moved the weights alike."""
    losses = {}
    for form in step.FORMS:
        action = step.prepare(form, **small_step)
        losses[form] = [float(torch.as_tensor(action())) for _ in range(2)]
        assert losses[form][0] != losses[form][1]
    assert losses["plain"] == pytest.approx(losses["stpl, float32"], rel=1e-3)
    assert losses["stpl"] == pytest.approx(losses["stpl, float32"], rel=0.1)


@pytest.mark.slow
def test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "data_set", lambda name: replace(data_set(name), native=(64, 128)))
    figures = bench(tmp_path, data.data, "--dataset=cityscapes", "--size=[32,64]", "--clips=2", "--repeats=2")
    stages = ("decode", "resize", "flow", "augment", "collate", "whole clip", "whole clip, frames and flow kept")
    assert set(stages) <= set(figures["seconds"])
    assert min(figures["seconds"].values()) > 0


def test_data_leaves_the_data_set_as_it_is(tmp_path: Path) -> None:
    assert main(["data", "fake", "viper", f"--root={tmp_path}", "--size=[36,64]", "--clips=2"]) == 0
    before = sorted(tmp_path.rglob("*"))
    data.data("viper", tmp_path, (24, 40), clips=1, repeats=1)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.long
def test_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.startup.interleaved", partial(interleaved, warm=0))
    monkeypatch.chdir(REPOSITORY)
    figures = bench(tmp_path, startup.startup, "--repeats=1")
    seconds = figures["seconds"]
    assert 0 < seconds["stpl --help"] < seconds["first step of a run"]
    assert seconds["a sweep's trial of no step"] > 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((warp.warp, "--repeats=0"), "--repeats: 0 is not 1 or more"),
        ((data.data, "--dataset=kitti"), "no data set 'kitti'"),
        ((startup.startup, "--repeats=some"), "--repeats"),
    ],
)
def test_mistakes_are_told(args: tuple[Any, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(args[0], args[1:])
    assert message in capsys.readouterr().err


def test_actions_are_measured_in_turn() -> None:
    calls: list[str] = []
    timings = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, warm=1)
    assert calls == ["a", "b"] * 4
    assert all(len(found.times) == 3 for found in timings.values())


def test_median_spread_and_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    timings = {name: measure._measurement(values) for name, values in {"a": [1.0, 2, 4, 3, 100], "b": [6.0]}.items()}
    figures = measure.report("title", timings, "a", {"b": 5.0})
    assert figures["seconds"] == {"a": 3, "b": 6}
    assert figures["spread"] == {"a": pytest.approx(1 / 3), "b": 0}  # quartiles 2 and 4
    assert re.search(r"b +6 s +±0% +2.00× +5 MB", capsys.readouterr().out)


@pytest.mark.skipif(not measure._STATUS.exists(), reason="peak memory is measured through /proc")
def test_peak_memory_is_the_largest_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    cases = {"whole": {"megabytes": 80, "keep": True}, "halves": {"megabytes": 80, "keep": False}}
    _, peaks = in_processes("memory_hog:allocate", cases, trim=True)
    assert peaks == {"whole": pytest.approx(80, abs=5), "halves": pytest.approx(40, abs=5)}


def test_without_a_gpu_one_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "visible_gpus", list)
    assert gpu.gpu() == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "no GPU is here" in said


def test_the_plan_of_a_gpu_s_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run tells every part with its time; all together stay under eight minutes, and every verb is there."""
    assert gpu.gpu(dry_run=True) == 0
    said = capsys.readouterr().out
    parts = gpu.plan(Path("build/gpu"))
    assert all(part.name in said for part in parts)
    assert sum(part.seconds for part in parts) < 480
    for part in parts:
        for command in part.commands:
            if command[1] == "stpl":
                assert main([command[2], "--help"]) == 0
            elif command[1] != "pytest":
                module = import_module(command[1])
                parser(getattr(module, command[1].split(".")[1])).parse_args(command[2:])


def test_a_part_that_fails_takes_nothing_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One fails, one hangs, one writes figures; the table tells all."""
    found = {"frames": 500, "seconds": 12.3}
    write = f"import json; open({str(tmp_path / 'evaluation.json')!r}, 'w').write(json.dumps({found!r}))"
    parts = [
        gpu.Part("tests", "fails", 5, (("-c", "print('why'); raise SystemExit(3)"), ("-c", "print('not reached')"))),
        gpu.Part("step", "hangs", 0, (("-c", "import time; time.sleep(60)"),)),
        gpu.Part("evaluation", "works", 5, (("-c", write),)),
    ]
    monkeypatch.setattr(gpu, "plan", lambda out: parts)
    monkeypatch.setattr(gpu, "visible_gpus", lambda: ["0"])
    monkeypatch.chdir(REPOSITORY)
    assert gpu.gpu(tmp_path) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    states = {part["part"]: part["state"] for part in summary["parts"]}
    assert states == {"tests": "failed (3)", "step": "stopped after 0 s", "evaluation": "ok"}
    assert (tmp_path / "tests.log").read_text() == "why\n"
    table = (tmp_path / "table.md").read_text()
    assert "| evaluation of 500 clips | 12.3 s |" in table
    assert table in capsys.readouterr().out


@pytest.mark.slow
def test_an_evaluation_and_a_loader_are_timed(tmp_path: Path) -> None:
    """What `make gpu` measures on a GPU, on the CPU."""
    small = ("--height=32", "--width=64", "--network.depth=18", "--network.width=8", "--frames=2")
    assert bench(tmp_path, evaluation.evaluation, *small)["frames"] == 2
    figures = bench(tmp_path, loader.loader, "--size=[32,64]", "--workers=[1]", "--steps=3")
    assert set(figures["clips_per_second"]) == {"workers", "device"}
    assert figures["seconds_second_view"] > 0


@pytest.mark.parametrize("part", [contrast.contrast, step.step, evaluation.evaluation, loader.loader])
def test_a_device_that_is_not_here_is_refused(part: Callable[..., Figures], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(part, ["--device=cuda:77"])
    assert "--device: 'cuda:77' cannot be used" in capsys.readouterr().err
