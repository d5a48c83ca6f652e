"""Statistics that belong to the weights: renewed for evaluation, kept in checkpoints, and which views move them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crash import crash_at
from stpl.cli import main
from stpl.commands.weights import weights_statistics
from stpl.data.clip import BACKWARD, Batch, Clip
from stpl.data.datamodule import StreetsData
from stpl.data.loading import Loading
from stpl.errors import RecordError
from stpl.methods import STPL, Contrast
from stpl.methods.stpl import View
from stpl.nn import weights
from stpl.nn.batchnorm import BatchNormOptions, apply_batchnorm, batchnorm_layers, renew, statistics_kept
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network
from stpl.runs.artifacts import KINDS, STATISTICS, read_evaluation, read_statistics
from stpl.runs.build import build
from stpl.runs.fit import fit
from stpl.runs.record import RECORD, read_metrics, read_record
from stpl.testing import TINY
from stpl.training import OptimizerOptions

Arguments = Callable[..., list[str]]
SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2)))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))


def statistics(module: nn.Module) -> list[Tensor]:
    return [buffer.clone() for layer in batchnorm_layers(module) for buffer in layer.buffers()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def clip(batch: int = 2) -> Clip:
    generator = torch.Generator().manual_seed(5)
    frames, views = torch.randint(0, 256, (2, batch, 2, 3, 40, 56), dtype=torch.uint8, generator=generator)
    flow = torch.randn(batch, 2, 40, 56, generator=generator)
    return Clip(frames, {BACKWARD: flow}, augmented=views // 2)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_renewed_statistics_are_the_mean_of_the_passes(momentum: float | None) -> None:
    """Against what PyTorch's own layers keep when they are reset; nothing else of the network changes."""
    module, batches = network(), torch.randn(5, 4, 3, 6, 6)
    module.train()
    apply_batchnorm(module, BatchNormOptions(momentum=momentum))
    module(batches[0] + 3)
    counts = [int(layer.num_batches_tracked or 0) for layer in batchnorm_layers(module)]
    reference = network()
    for layer in batchnorm_layers(reference):
        layer.reset_running_stats()
        layer.momentum = None
    for batch in batches:
        reference(batch)
    renew(module, (lambda b=batch: module(b) for batch in batches))  # type: ignore[misc]
    for ours, theirs in zip(batchnorm_layers(module), batchnorm_layers(reference), strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)
        assert ours.training
    assert [int(layer.num_batches_tracked or 0) for layer in batchnorm_layers(module)] == counts
    before = statistics(module)
    module.eval()
    module(batches[0])
    assert equal(before, statistics(module))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_kept_statistics_do_not_move_and_the_output_is_the_same(momentum: float | None) -> None:
    module, batch = network().train(), torch.randn(4, 3, 6, 6)
    apply_batchnorm(module, BatchNormOptions(momentum=momentum))
    module(batch)
    before, plain = statistics(module), module(batch + 1)
    after = statistics(module)
    with statistics_kept(module):
        kept = module(batch + 1)
    assert torch.equal(plain, kept)
    assert equal(after, statistics(module))
    assert not equal(before, after)
    module(batch)
    assert not equal(after, statistics(module))  # and they move again


@pytest.mark.parametrize("momentum", [0.1, None])
def test_original_views_alone_move_the_statistics(momentum: float | None) -> None:
    """With `views: original`, a contrast with augmented views ends with the statistics of one without."""

    def moved(views: Any, key: View) -> list[Tensor]:
        torch.manual_seed(0)
        options = BatchNormOptions(momentum=momentum, views=views)
        contrasts = [Contrast("current", key)]
        made = STPL(network=SMALL, optimizer=OptimizerOptions(), batchnorm=options, contrasts=contrasts).train()
        made.losses(Batch(clip()))
        return [buffer for name, buffer in made.named_buffers() if name.endswith(("running_mean", "running_var"))]

    plain = moved("all", "current")
    assert all(torch.equal(a, b) for a, b in zip(moved("original", "augmented current"), plain, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(moved("all", "augmented current"), plain, strict=True))


def test_clips_to_renew_from_are_the_same_for_every_run(tiny_streets: Path) -> None:
    def clips(seed: int, augmented: bool) -> list[Clip]:
        data = StreetsData(tiny_streets, TINY, loading=Loading(batch_size=2), sampling_seed=seed)
        found = data.renewal_clips(3, augmented=augmented)
        assert data.renewal_clips(3, augmented=augmented) is found  # read once
        return found

    plain, other, augmented = clips(0, False), clips(7, False), clips(0, True)
    assert len(plain) == 3
    for a, b, c in zip(plain, other, augmented, strict=True):
        assert a.key == b.key == c.key
        assert torch.equal(a.frames, b.frames)
        assert torch.equal(a.frames, c.frames)
        assert a.augmented is None
        assert not a.labels
        assert c.augmented is not None


def run(tiny_run: Arguments, experiment: str, *extra: str, steps: int = 4) -> Path:
    return fit(tiny_run(experiment, "--start_from=null", *extra, steps=steps))


RENEWED = ("--batchnorm.evaluation=renewed", "--batchnorm.renewal_batches=3", "--optimizer.lr=0.01")


@pytest.mark.slow
def test_a_checkpoint_holds_the_statistics_it_was_evaluated_with(
    tiny_run: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tiny_run("stpl", "--start_from=null", *RENEWED)
    directory = fit(options)
    record = read_record(directory)
    assert record is not None
    shared = [word for word in options if word.startswith(("--bench", "--data.", "--trainer.precision"))]
    assert main(["test", f"--network={directory / 'checkpoints' / 'last.ckpt'}", *shared]) == 0
    assert f"{record['last']['miou']:.2f}" in capsys.readouterr().out.split("mIoU")[1]


@pytest.mark.slow
def test_renewed_statistics_are_of_the_last_weights_and_fixed_clips(tiny_run: Arguments) -> None:
    """Hand-made from the checkpoint's weights; the running ones are kept beside them, to go on with."""
    options = tiny_run("stpl", "--start_from=null", *RENEWED)
    folder = fit(options)
    content = weights.read(folder / "checkpoints" / "last.ckpt")
    cli, _ = build([*options, "--run.experiment=again"])
    network = build_network(cli.model.options)
    weights.load(folder / "checkpoints" / "last.ckpt", network)
    for layer in batchnorm_layers(network):
        layer.reset_running_stats()
        layer.train()
        layer.momentum = None
    with torch.no_grad():
        for batch in cli.datamodule.renewal_clips(3, augmented=True):
            assert batch.augmented is not None
            for frames in (batch.frames, batch.augmented):
                for place in (-2, -1):
                    network.encode(frames[:, place])
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(buffer, content["state_dict"][f"network.{name}"], rtol=1e-5, atol=1e-6)
    running = content["running_statistics"]
    assert running
    assert all(name.endswith(("running_mean", "running_var")) for name in running)
    assert not any(torch.equal(running[name], content["state_dict"][name]) for name in running)


@pytest.mark.slow
def test_evaluation_does_not_change_what_is_trained(tiny_run: Arguments) -> None:
    """Renewed or not, evaluated often or seldom: the same weights and the same running statistics."""
    often = run(tiny_run, "stpl", *RENEWED, "--trainer.val_check_interval=1")
    seldom = run(tiny_run, "stpl", *RENEWED, "--run.experiment=b", "--trainer.val_check_interval=4")
    lagging = run(tiny_run, "stpl", *RENEWED, "--run.experiment=c", "--batchnorm.evaluation=running")
    contents = [weights.read(folder / "checkpoints" / "last.ckpt") for folder in (often, seldom, lagging)]
    trained = [{**content["state_dict"], **content.get("running_statistics", {})} for content in contents]
    for other in trained[1:]:
        assert all(torch.equal(trained[0][name], other[name]) for name in other)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_running_statistics(tiny_run: Arguments) -> None:
    whole = run(tiny_run, "stpl", *RENEWED)
    again = tiny_run("stpl", "--start_from=null", *RENEWED, "--run.experiment=killed", "--run.checkpoint_every=1")
    crash_at(3, again)  # the last checkpoint is that of the evaluation at step 2
    contents = [weights.read(folder / "checkpoints" / "last.ckpt") for folder in (whole, fit(again))]
    for name in ("state_dict", "running_statistics"):
        assert all(torch.equal(contents[0][name][key], contents[1][name][key]) for key in contents[0][name])


@pytest.mark.slow
def test_the_start_is_evaluated_as_it_is(tiny_run: Arguments) -> None:
    """Its weights have not moved: the statistics it came with belong to it."""
    scores = []
    for name, extra in (("a", ()), ("b", RENEWED)):
        folder = run(tiny_run, "stpl", *extra, f"--run.experiment={name}")
        scores.append({(step, key): value for step, key, value in read_metrics(folder / "metrics.csv")})
    assert scores[0][0, "val/miou"] == scores[1][0, "val/miou"]
    assert scores[0][4, "val/score"] != scores[1][4, "val/score"]


@pytest.mark.slow
def test_how_far_the_encoder_moved(tiny_run: Arguments, tmp_path: Path) -> None:
    """In percent of the norm of its weights, statistics left out; nothing where there is no start."""
    source = run(tiny_run, "source", steps=2)
    start = source / "checkpoints" / "last.ckpt"
    moved = {}
    for rate in ("0.0", "0.01"):
        options = (f"--model.checkpoint={start}", f"--optimizer.lr={rate}", f"--run.experiment=moved{rate}")
        folder = run(tiny_run, "spatial", *options)
        record = read_record(folder)
        assert record is not None
        moved[rate] = record["last"]["weights"]["moved"]
        last = weights.read(folder / "checkpoints" / "last.ckpt")["state_dict"]
    before = weights.read(start)["state_dict"]
    names = [n for n in before if "backbone" in n and n.endswith(("weight", "bias"))]
    change = sum(float((last[n] - before[n]).double().square().sum()) for n in names)
    size = sum(float(before[n].double().square().sum()) for n in names)
    assert moved["0.0"] == 0.0
    assert moved["0.01"] == pytest.approx(100 * (change / size) ** 0.5, rel=1e-6)
    record = read_record(source)
    assert record is not None
    assert "weights" not in record["last"]


@pytest.mark.slow
def test_weights_by_statistics(tiny_run: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run measures its last weights with every kind; a recorded one that has not is measured by the verb, alike."""
    renewed = run(tiny_run, "stpl", *RENEWED)
    lagging = run(tiny_run, "stpl", *RENEWED, "--batchnorm.evaluation=running", "--run.experiment=lagging")
    start = fit([*tiny_run("source_only", "--start_from=null"), "--batchnorm.renewal_batches=3"])
    source = run(tiny_run, "source", steps=2)
    assert not (source / STATISTICS).exists()
    for folder, own, step in ((renewed, "all", 4), (lagging, "running", 4), (start, "running", 0)):
        evaluation, found = read_evaluation(folder), read_statistics(folder, step)
        assert evaluation is not None
        assert found is not None
        assert np.array_equal(found[own].confusions, evaluation.confusions)  # type: ignore[index]
        assert {counts.keys for counts in found.values()} == {evaluation.keys}
        assert not any(np.array_equal(found[a].confusions, found[b].confusions) for a, b in combinations(KINDS, 2))
        with pytest.raises(RecordError, match="is of step"):
            read_statistics(folder, step + 1)
    files = [(folder / STATISTICS).read_bytes() for folder in (renewed, lagging, start)]
    for kind in KINDS:  # the weights are the same, and each run measured what the other knows
        a, b = (read_statistics(folder, 4) for folder in (renewed, lagging))
        assert a is not None
        assert b is not None
        assert np.array_equal(a[kind].confusions, b[kind].confusions)
    for folder in (renewed, lagging, start):
        (folder / STATISTICS).unlink()
    capsys.readouterr()
    weights_statistics(runs=tmp_path / "runs")
    assert [(folder / STATISTICS).read_bytes() for folder in (renewed, lagging, start)] == files
    assert not (source / STATISTICS).exists()
    capsys.readouterr()
    weights_statistics(runs=tmp_path / "runs")
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["stpl", "source_only"])
def test_a_run_killed_before_its_record_is_measured_and_recorded(experiment: str, tiny_run: Arguments) -> None:
    arguments = tiny_run(experiment, "--start_from=null", *RENEWED, steps=4 if experiment == "stpl" else 0)
    folder = fit(arguments)
    before, written = read_record(folder), (folder / STATISTICS).read_bytes()
    for name in (RECORD, STATISTICS):
        (folder / name).unlink()
    fit(arguments)
    after = read_record(folder)
    assert before is not None
    assert after is not None
    assert [after[name] for name in ("last", "selected", "best")] == [
        before[name] for name in ("last", "selected", "best")
    ]
    assert (folder / STATISTICS).read_bytes() == written


@pytest.mark.slow
def test_measuring_happens_aside(tiny_run: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints, metrics and record are those of a run that does not measure."""
    kept: list[Any] = []
    for name in ("measured", "unmeasured"):
        if name == "unmeasured":
            monkeypatch.setattr("stpl.runs.fit.measure", lambda *_: None)
        folder = run(tiny_run, "stpl", *RENEWED, f"--run.experiment={name}")
        contents = [weights.read(folder / "checkpoints" / f"{moment}.ckpt") for moment in ("last", "selected", "best")]
        record = read_record(folder)
        assert record is not None
        tensors = [{**content["state_dict"], **content["running_statistics"]} for content in contents]
        kept.append((tensors, (folder / "metrics.csv").read_text(), record["last"], record["selected"], record["best"]))
    for one, other in zip(kept[0][0], kept[1][0], strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert kept[0][1:] == kept[1][1:]


@pytest.mark.slow
def test_without_batchnorm_nothing_is_evaluated_again(tiny_run: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stpl.runs.weights_statistics.batchnorm_layers", lambda _: [])
    monkeypatch.setattr("stpl.runs.weights_statistics._evaluated", lambda *_: pytest.fail("evaluated again"))
    found = read_statistics(run(tiny_run, "stpl"), 4)
    assert found is not None
    assert all(np.array_equal(found[kind].confusions, found["running"].confusions) for kind in KINDS)
