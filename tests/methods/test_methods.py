"""Every row of Tables 3 and 4, run through the real command line on a tiny benchmark."""

from __future__ import annotations

import csv
import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch._dynamo.testing import CompileCounter

from crash import crash_at
from repository import REPOSITORY
from stpl.data.clip import BACKWARD, Batch, Clip
from stpl.errors import ConfigError, DataError
from stpl.methods import STPL, Contrast
from stpl.methods.stpl import View
from stpl.nn import weights
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.runs.experiments import load_catalogue
from stpl.runs.fit import fit
from stpl.runs.record import read_record
from stpl.training import OptimizerOptions

Arguments = Callable[..., list[str]]
GOLDEN = REPOSITORY / "tests" / "golden" / "losses.json"
RECORDED: dict[str, Any] = json.loads(GOLDEN.read_text())
SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2)))
ABLATIONS = {  # of VAT-VST: from the source model, with settings that no search changes
    "vat_": ("--optimizer.lr=6.0e-4", "--model.adversarial_weight=0.001"),
    "vst_": ("--optimizer.lr=6.0e-4", "--model.proportion=0.2", "--model.initial=0.05", "--start_from=source"),
}
ROWS = [pytest.param(name, marks=pytest.mark.long) if name[:4] in ABLATIONS else name for name in RECORDED]


@pytest.fixture(scope="session")
def source(tiny_streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source checkpoint of a few steps; made once."""
    return tmp_path_factory.mktemp("source")


@pytest.fixture
def with_source(tiny_run: Arguments, source: Path, tmp_path: Path) -> Arguments:
    """`tiny_run`, with the source model in place."""
    home = tmp_path / "runs" / "streets" / "source" / "seed0"
    if not (source / "seed0").exists():
        fit(tiny_run("source"))
        shutil.copytree(home, source / "seed0")
    elif not home.exists():
        shutil.copytree(source / "seed0", home)
    return tiny_run


def losses(directory: Path) -> list[float]:
    with (directory / "metrics.csv").open(newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "train/loss"]


def state(directory: Path, name: str = "last") -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = weights.read(directory / "checkpoints" / f"{name}.ckpt")["state_dict"]
    return content


def network(content: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The network's weights and statistics, without the number of batches, which each run counts from 0."""
    kept = {key for key in content if key.startswith("network.") and not key.endswith("num_batches_tracked")}
    return {key: content[key] for key in kept}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ROWS)
def test_golden_loss_curve(experiment: str, with_source: Arguments) -> None:
    """Four steps give the losses that were recorded when the method was last changed on purpose.

    To renew them after such a change, empty the entry in golden/losses.json (`null`) and run this test once. Methods
    with a test of their own state theirs in its call of `check_method`.
    """
    run = with_source(experiment, *ABLATIONS.get(experiment[:4], ()))
    found = losses(fit(run) if experiment != "source" else _source_directory())
    golden = RECORDED[experiment]
    if golden is None:
        GOLDEN.write_text(json.dumps({**json.loads(GOLDEN.read_text()), experiment: found}, indent=1) + "\n")
        pytest.fail(f"recorded new golden losses of {experiment}; look at them, then run again")
    assert found == pytest.approx(golden, rel=2e-3)


def test_every_experiment_has_golden_losses() -> None:
    """Here, or in the call of the conformance suite that its own test makes; rows may differ in their start alone."""
    experiments = load_catalogue([REPOSITORY / "experiments"]).experiments

    def what_learns(name: str) -> list[dict[str, Any]]:
        texts = ((REPOSITORY / "experiments" / f"{overlay}.yaml") for overlay in experiments[name])
        settings = [yaml.safe_load(path.read_text()) for path in texts if path.is_file()]
        return [{key: value for key, value in found.items() if not key.startswith("start_")} for found in settings]

    tests = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    stated = {
        name for name in experiments if name in RECORDED or re.search(rf'check_method\(\s*"{name}"[^)]*golden=', tests)
    }
    for name in experiments.keys() - stated - {"source_only"}:
        assert any(what_learns(name) == what_learns(other) for other in stated), name


def _source_directory() -> Path:
    from stpl.runs.record import RunKey, runs_root

    return RunKey("streets", "source", 0).directory(runs_root())


@pytest.mark.slow
def test_source_only_evaluates_and_records(with_source: Arguments) -> None:
    directory = fit(with_source("source_only"))
    record = read_record(directory)
    assert record is not None
    assert record["steps"] == 0
    assert record["last"] == record["best"] == record["selected"]
    assert same(network(state(directory)), network(state(_source_directory())))


@pytest.mark.slow
def test_batchnorm_statistics_moves_statistics_and_nothing_else(with_source: Arguments) -> None:
    adapted, source = state(fit(with_source("batchnorm_statistics"))), state(_source_directory())
    moved = {key for key in source if not torch.equal(source[key], adapted[key])}
    assert moved
    assert all(key.endswith(("running_mean", "running_var", "num_batches_tracked")) for key in moved)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["batchnorm_statistics", "self_training", "naive", "stpl"])
def test_adaptation_touches_no_label(
    experiment: str, with_source: Arguments, tiny_streets: Path, tmp_path: Path
) -> None:
    """Garbage instead of the training labels changes nothing, to the last bit."""
    clean = state(fit(with_source(experiment)))
    garbage = with_garbage_labels(tiny_streets, tmp_path / "garbage")
    extra = (f"--data.init_args.root={garbage}", f"--run.experiment={experiment}-garbage")
    assert same(clean, state(fit([*with_source(experiment), *extra])))


def with_garbage_labels(streets: Path, root: Path) -> Path:
    """A copy of the benchmark whose training labels are all 77, with a manifest that vouches for them."""
    shutil.copytree(streets, root)
    (labels,) = root.glob("camera-train-*/labels.npy")
    np.save(labels, np.full_like(np.load(labels), 77))
    manifest = labels.with_name("manifest.json")
    content = json.loads(manifest.read_text())
    content["checksums"]["labels"] = [zlib.crc32(label) for label in np.load(labels)]
    manifest.write_text(json.dumps(content))
    return root


@pytest.mark.slow
def test_a_method_with_labels_notices_garbage(with_source: Arguments, tiny_streets: Path, tmp_path: Path) -> None:
    """The counter-check of the test above, and a label outside its space is told with its file."""
    garbage = with_garbage_labels(tiny_streets, tmp_path / "garbage")
    with pytest.raises(DataError, match=r"labels\.npy.*label values \[77\] are outside"):
        fit(with_source("oracle", f"--data.init_args.root={garbage}"))


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "step"), [("stpl", 3), ("stpl", 5), ("batchnorm_statistics", 4)])
def test_resumed_run_ends_with_the_same_weights(experiment: str, step: int, with_source: Arguments) -> None:
    """Killed in any step and called again, with another number of workers: bit-identical weights, curves, record.

    `test_conformance` kills other methods.
    """
    whole = fit(with_source(experiment, steps=6))
    again = [*with_source(experiment, "--run.checkpoint_every=1", steps=6), "--run.experiment=crashed"]
    crash_at(step, again)
    resumed = fit([*again, "--data.init_args.loading.num_workers=1"])
    assert same(state(whole), state(resumed))
    assert losses(whole) == losses(resumed)
    first, second = read_record(whole), read_record(resumed)
    assert first is not None
    assert second is not None
    assert [first[k] for k in ("last", "selected", "best")] == [second[k] for k in ("last", "selected", "best")]


@pytest.mark.slow
def test_the_backbone_is_compiled_where_asked(with_source: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be compiled; the same weights come out, because the stand-in changes nothing."""
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, *args, **kwargs: compiled.append(module))
    fit(with_source("self_training", "--run.compile=true", steps=2))
    assert [type(module).__name__ for module in compiled] == ["ResNet"]


def test_a_backbone_is_compiled_once() -> None:
    """Not anew at every step, though the share of a batch in the mean statistics changes; losses stay what they are."""
    expected, _ = compiled_losses(None)
    counter = CompileCounter()
    found, graphs = compiled_losses(counter)
    assert found == pytest.approx(expected, rel=1e-6)
    assert graphs[0] == graphs[-1] > 0


def compiled_losses(counter: CompileCounter | None) -> tuple[list[float], list[int]]:
    """Losses of four steps through a backbone compiled by `counter`, and how many graphs there were after each."""
    torch.manual_seed(0)
    model = STPL(network=SMALL, optimizer=OptimizerOptions(lr=1e-3), batchnorm=BatchNormOptions(momentum=None)).train()
    if counter is not None:
        torch._dynamo.reset()
        model.network.segmenter.get_submodule("backbone").compile(backend=counter)
    optimizer, losses, graphs = torch.optim.SGD(model.parameter_groups()), [], []
    for _ in range(4):
        output = model.step(Batch(clip()))
        assert output is not None
        optimizer.zero_grad()
        output["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(output["loss"].item())
        graphs.append(counter.frame_count if counter else 0)
    return losses, graphs


@pytest.mark.slow
def test_a_recorded_run_is_left_alone(with_source: Arguments, capsys: pytest.CaptureFixture[str]) -> None:
    directory = fit(with_source("self_training"))
    before = (directory / "result.json").stat().st_mtime_ns
    fit(with_source("self_training"))
    assert (directory / "result.json").stat().st_mtime_ns == before
    assert "recorded already" in capsys.readouterr().err


def clip(batch: int = 2) -> Clip:
    generator = torch.Generator().manual_seed(5)
    frames, augmented = torch.randint(0, 256, (2, batch, 2, 3, 40, 56), dtype=torch.uint8, generator=generator)
    return Clip(frames, flows={BACKWARD: torch.randn(batch, 2, 40, 56, generator=generator)}, augmented=augmented)


def method(*pairs: tuple[View, View], **options: Any) -> STPL:
    torch.manual_seed(0)
    contrasts = [Contrast(query, key) for query, key in pairs] or None
    return STPL(
        network=SMALL,
        optimizer=OptimizerOptions(),
        contrasts=contrasts,
        batchnorm=BatchNormOptions("frozen"),
        **options,
    ).train()


def test_naive_is_the_sum_of_temporal_and_spatial() -> None:
    temporal, spatial = ("current", "previous-warped"), ("current", "augmented current")
    naive = method(temporal, spatial).losses(Batch(clip()))  # type: ignore[arg-type]
    parts = {**method(temporal).losses(Batch(clip())), **method(spatial).losses(Batch(clip()))}  # type: ignore[arg-type]
    assert {k: v.item() for k, v in naive.items()} == pytest.approx({k: v.item() for k, v in parts.items()})


def test_clip_keys_are_the_mean_over_clips() -> None:
    batch = clip(2)
    assert batch.augmented is not None
    parts = zip(batch.frames, batch.flows[BACKWARD], batch.augmented, strict=True)
    alone = [
        method(fusion="concat").losses(Batch(Clip(f[None], {BACKWARD: o[None]}, augmented=a[None])))
        for f, o, a in parts
    ]
    together = method(fusion="concat").losses(Batch(batch))
    for name, value in together.items():
        assert value.item() == pytest.approx(sum(part[name].item() for part in alone) / 2, rel=1e-4)


def test_the_previous_frame_takes_gradient_only_on_request() -> None:
    """With «previous-warped» as both query and key, the encoder learns only if gradients may pass."""
    pair: tuple[View, View] = ("previous-warped", "previous-warped")
    for wanted in (False, True):
        model = method(pair, previous_gradient=wanted)
        sum(model.losses(Batch(clip())).values()).backward()  # type: ignore[union-attr]
        assert (model.network.segmenter.backbone.conv1.weight.grad is not None) == wanted


@pytest.mark.parametrize("name", ["current", "augmented current", "fused", "augmented fused"])
def test_the_encoder_learns_from_either_side(name: View) -> None:
    """Each view alone, on both sides of the contrast, brings gradients to the first layer."""
    model = method((name, name))
    sum(model.losses(Batch(clip())).values()).backward()  # type: ignore[union-attr]
    gradient = model.network.segmenter.backbone.conv1.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_only_wanted_views_are_augmented() -> None:
    assert not method(("current", "current")).wants.augmented
    assert method().wants.augmented


def test_mixed_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="mix fused and single-frame views"):
        method(("fused", "current"))
