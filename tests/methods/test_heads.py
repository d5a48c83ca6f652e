"""Projection heads, their rate and warm-up, and the diagnostics with true labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stpl.data.clip import BACKWARD, IGNORE, Batch, Clip, Wants, collate
from stpl.errors import ConfigError
from stpl.losses.pixel_contrast import pixel_contrast
from stpl.methods import STPL, Contrast, SelfTraining, TrueLabelSelfTraining, TrueLabelSTPL
from stpl.metrics.feature_space import linear_probe
from stpl.nn import weights
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.fusion import HeadName, ProjectionHead
from stpl.nn.network import NetworkOptions
from stpl.runs.build import build
from stpl.runs.fit import fit
from stpl.training import OptimizerOptions
from stpl.training.evaluation import nearest
from stpl.training.optimization import learning_rates

Arguments = Callable[..., list[str]]
SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2)))
SPATIAL = [Contrast("current", "augmented current")]


def clip(batch: int = 2, labels: bool = False) -> Clip:
    generator = torch.Generator().manual_seed(5)
    frames, augmented = torch.randint(0, 256, (2, batch, 2, 3, 40, 56), dtype=torch.uint8, generator=generator)
    label = {0: torch.randint(0, 15, (batch, 40, 56), generator=generator)} if labels else {}
    flow = torch.randn(batch, 2, 40, 56, generator=generator)
    return Clip(frames, {BACKWARD: flow}, label, augmented=augmented)


def make(kind: type[STPL] = STPL, lr: OptimizerOptions | None = None, **options: Any) -> STPL:
    torch.manual_seed(0)
    frozen = BatchNormOptions("frozen")
    return kind(
        network=SMALL, optimizer=lr or OptimizerOptions(), batchnorm=frozen, contrasts=SPATIAL, **options
    ).train()


@pytest.mark.parametrize(("kind", "layers", "out"), [("mlp", 2, 5), ("linear", 1, 5), ("none", 0, 6)])
def test_what_a_head_is(kind: HeadName, layers: int, out: int) -> None:
    head, pixels = ProjectionHead(6, 5, kind=kind), torch.randn(2, 9, 6)
    assert sum(isinstance(module, nn.Linear) for module in head.modules()) == layers
    assert head.out_dim == out
    assert head(pixels).shape == (2, 9, out)
    torch.testing.assert_close(head(pixels).norm(dim=-1), torch.ones(2, 9))


def test_a_linear_head_is_one_layer_and_none_is_the_direction_itself() -> None:
    pixels = torch.randn(4, 6)
    linear: Any = ProjectionHead(6, 5, kind="linear")
    expected = pixels @ linear.layers[0].weight.T + linear.layers[0].bias
    torch.testing.assert_close(linear(pixels), expected / expected.norm(dim=1, keepdim=True))
    torch.testing.assert_close(ProjectionHead(6, kind="none")(pixels), pixels / pixels.norm(dim=1, keepdim=True))


def test_without_a_head_the_loss_is_that_of_the_features() -> None:
    method, batch = make(head="none", confident_proportion=1.0), clip()
    (loss,) = method.losses(Batch(batch)).values()
    assert batch.augmented is not None
    found = []
    for i in range(len(batch.frames)):
        now, view = (method.network.encode(x[i : i + 1, -1])[0].flatten(1).T for x in (batch.frames, batch.augmented))
        labels = method.network(batch)[i].argmax(0).flatten()
        q, k = (x / x.norm(dim=1, keepdim=True) for x in (now, view))
        found.append(pixel_contrast(q, k, labels, labels))
    torch.testing.assert_close(loss, torch.stack(found).mean())
    assert not any(name.startswith("projection") for name, _ in method.named_parameters())


def groups(method: STPL) -> dict[str, float]:
    return {group["name"]: group["lr"] for group in method.parameter_groups()}


def test_the_heads_rate_is_its_own() -> None:
    both = make(lr=OptimizerOptions(lr=1.0, new_module_factor=10.0))
    apart = make(lr=OptimizerOptions(lr=1.0, new_module_factor=10.0, projection_factor=3.0))
    assert groups(both)["projection"] == 10.0
    assert groups(apart)["projection"] == 3.0
    torch.manual_seed(0)
    options = OptimizerOptions(lr=1.0, projection_factor=0.0)
    fused = STPL(network=SMALL, optimizer=options, contrasts=[Contrast("fused", "augmented fused")])
    assert groups(fused)["projection"] == 0.0  # a fixed head, and a fusion that learns
    assert groups(fused)["new"] == 10.0


@pytest.mark.parametrize("schedule", ["poly", "advent"])
def test_during_warmup_only_new_modules_learn(schedule: Any) -> None:
    options = OptimizerOptions(lr=1e-2, warmup=2, schedule=schedule)
    method = make(lr=options)
    optimizer = torch.optim.SGD(method.parameter_groups(), momentum=0.9)
    steps = learning_rates(optimizer, options, 5)
    before = [p.detach().clone() for p in method.network.parameters()]
    moved = []
    for _ in range(4):
        optimizer.zero_grad()
        torch.stack(list(method.losses(Batch(clip())).values())).sum().backward()  # type: ignore[no-untyped-call]
        head = [p.detach().clone() for p in method.projection.parameters()]
        optimizer.step()
        assert not all(torch.equal(a, b) for a, b in zip(head, method.projection.parameters(), strict=True))
        moved.append(not all(torch.equal(a, b) for a, b in zip(before, method.network.parameters(), strict=True)))
        steps.step()
    assert moved == [False, False, True, True]


def test_rates_after_the_warmup_are_those_without_one() -> None:
    rates: list[list[list[float]]] = []
    for warmup in (0, 2):
        options = OptimizerOptions(lr=1.0, warmup=warmup)
        optimizer = torch.optim.SGD(make(lr=options).parameter_groups(), lr=1.0)
        schedule = learning_rates(optimizer, options, 5)
        rates.append([])
        for _ in range(5):
            rates[-1].append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            schedule.step()
    for plain, warm in zip(rates[0][2:], rates[1][2:], strict=True):
        assert warm == pytest.approx(plain)


@pytest.mark.parametrize("name", ["projection_factor", "warmup"])
def test_rates_below_zero_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        OptimizerOptions(**{name: -1})  # type: ignore[arg-type]


# --- diagnostics with true labels


def test_true_labels_replace_those_of_the_confident_pixels() -> None:
    """The pixels are those that the method takes; a pixel of unknown class takes no part."""
    batch = clip(labels=True)
    batch.labels[0][:, :20] = IGNORE
    plain, true = make(), make(TrueLabelSTPL)
    assert true.wants == replace(plain.wants, labels=(0,))
    logits = plain.network(batch)
    _, confident = plain.pseudo_labels(logits, batch)
    labels, kept = true.pseudo_labels(logits, batch)
    truth = nearest(batch.labels[0], (logits.shape[-2], logits.shape[-1]))
    assert torch.equal(kept, confident & (truth != IGNORE))
    assert torch.equal(labels[kept], truth[kept])
    torch.manual_seed(0)
    trained = TrueLabelSelfTraining(network=SMALL, optimizer=OptimizerOptions())
    assert trained.wants.labels
    assert not SelfTraining.wants.labels


def test_a_perfect_prediction_makes_both_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, true, batch = make(), make(TrueLabelSTPL), clip(labels=True)
    truth = nearest(batch.labels[0], (5 + 1, 7 + 1))

    def sure(network: object, current: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
        assert current.shape[-2:] == truth.shape[-2:]
        return torch.nn.functional.one_hot(truth, 15).permute(0, 3, 1, 2).float() * 9

    monkeypatch.setattr("stpl.nn.accel.Accel.fuse", sure)
    assert plain.losses(Batch(batch)) == true.losses(Batch(batch))


def test_no_table_of_methods_holds_a_diagnostic() -> None:
    from stpl.runs.experiments import load_catalogue

    catalogue = load_catalogue()
    shown = {row.experiment for table in catalogue.tables for row in table.rows}
    assert not any("true_labels" in str(name) for name in shown)
    assert {"spatial_true_labels", "self_training_true_labels"} <= catalogue.experiments.keys()


# --- does the contrast do what it says?


@pytest.mark.long
def test_contrast_with_true_labels_makes_features_easier_to_tell_apart(tiny_run: Arguments) -> None:
    """Overfit eight clips: a classifier refitted on their features must score higher afterwards."""
    source = fit(tiny_run("source", "--data.init_args.loading.batch_size=4", steps=20))
    start = source / "checkpoints" / "last.ckpt"
    rate = ("--optimizer.name=adamw", "--optimizer.lr=1e-3", f"--model.checkpoint={start}", "--start_from=null")
    folder = fit(tiny_run("spatial_true_labels", *rate, "--data.init_args.loading.batch_size=8", steps=40))
    cli, _ = build(tiny_run("spatial_true_labels", *rate))
    reader = cli.datamodule.reader("train")
    batch = collate([reader.read(i, Wants(flows=(BACKWARD,), labels=(0,))) for i in range(8)])
    scores = []
    for path in (start, folder / "checkpoints" / "last.ckpt"):
        network = cli.model.network
        weights.load(path, network)
        network.train()
        with torch.no_grad():
            features = network.encode(batch.frames[:, -1])
        classes = nearest(batch.labels[0], (features.shape[-2], features.shape[-1]))
        known = classes != IGNORE
        clips = torch.arange(8)[:, None, None].expand_as(classes)
        pixels = features.permute(0, 2, 3, 1)[known]
        scores.append(float(linear_probe(pixels, classes[known], clips[known])))
    assert scores[1] > scores[0] + 5
