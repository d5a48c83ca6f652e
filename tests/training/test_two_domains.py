"""Batches with source clips, rare-class sampling, an adversary: parts that methods of other papers need."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softmax

from repository import SUPPORT
from stpl.data.clip import Batch, Clip, Wants, collate_streams
from stpl.data.datamodule import StreetsData
from stpl.data.loading import Loading
from stpl.data.steps import RareClasses, RareClassSampler, class_pixels, probabilities
from stpl.errors import ConfigError, DataError
from stpl.losses.adversarial import domain_loss
from stpl.losses.entropy import weighted_entropy
from stpl.nn import weights
from stpl.nn.discriminator import Discriminator, DiscriminatorOptions
from stpl.runs.fit import fit
from stpl.runs.record import read_record
from stpl.testing import TINY, check_method
from stpl.testing.runs import fit_until, tiny_arguments
from stpl.training.optimization import Joint, OptimizerOptions, learning_rates


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder beside the shipped ones, with a method by its import path."""
    folder = tmp_path / "mine"
    (folder / "method").mkdir(parents=True)
    (folder / "tables.yaml").write_text("experiments: {adversarial: {overlays: [method/adversarial]}}\n")
    (folder / "method/adversarial.yaml").write_text("model: {class_path: two_sides.Adversarial}\n")
    monkeypatch.setenv("STPL_EXPERIMENTS", str(folder))
    monkeypatch.setenv("STPL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    return folder


@pytest.mark.long
def test_an_adversarial_method_conforms(experiments: Path, tiny_streets: Path, tmp_path: Path) -> None:
    check_method("adversarial", tmp_path / "here", source=True, streets=tiny_streets, experiments=experiments)


@pytest.mark.slow
def test_source_clips_need_leave(experiments: Path, tiny_streets: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="source=True"):
        check_method("adversarial", tmp_path / "here", ranks=False, streets=tiny_streets, experiments=experiments)


@pytest.mark.slow
def test_the_source_has_batches_of_its_own(experiments: Path, tiny_streets: Path) -> None:
    """Other numbers of clips, an order of their own, and rare classes; the same after a kill, with worker processes."""
    own = (
        "--start_from=null",
        "--data.loading.source_batch_size=3",
        "--data.loading.rare_classes={}",
        f"--data.class_statistics={experiments / 'statistics'}",
        "--run.checkpoint_every=1",
    )
    whole = fit(tiny_arguments("adversarial", tiny_streets, *own, "--run.experiment=whole"))
    again = tiny_arguments("adversarial", tiny_streets, *own, "--run.experiment=cut", "--data.loading.num_workers=1")
    assert fit_until(3, again)
    cut = fit(again)
    first, second = (weights.read(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(list((experiments / "statistics").glob("studio-train-*.npy"))) == 1


@pytest.mark.slow
def test_the_source_model_has_no_other_source(experiments: Path, tiny_streets: Path) -> None:
    with pytest.raises(ConfigError, match="adapts from source to target"):
        fit(tiny_arguments("adversarial", tiny_streets, "--start_from=null", "--data.domain=source"))


def test_a_batch_travels_whole() -> None:
    target, source = Clip(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), key="t"), Clip(torch.ones(2, 3, 6, 6), key="s")
    batch = collate_streams([("target", target), ("source", source), ("target", target)])
    assert batch.source is not None
    assert (batch.target.frames.shape, batch.source.frames.shape) == ((2, 2, 3, 4, 4), (1, 2, 3, 6, 6))
    assert list(batch.tensors()) == ["target.frames", "source.frames"]
    doubled = batch.map(lambda x: 2 * x)
    assert doubled.source is not None
    assert doubled.source.frames.max() == 2
    assert batch.to("cpu").target.key == ("t", "t")
    assert Batch(target).to("cpu").source is None


def test_probabilities_of_rare_classes() -> None:
    """Hand-computed: softmax of (1 - f)/T."""
    shares = np.array([0.6, 0.3, 0.09, 0.01])
    assert probabilities(shares, 0.01) == pytest.approx([0, 0, 3.35e-4, 0.99966], abs=1e-5)
    assert probabilities(shares, 0.1) == pytest.approx([0.0018, 0.0365, 0.2981, 0.6635], abs=1e-4)
    assert probabilities(shares, 1.0) == pytest.approx([0.1718, 0.2320, 0.2862, 0.3100], abs=1e-4)
    assert probabilities(np.array([0.5, 0.5, 0.0]), 0.01).tolist() == [0.5, 0.5, 0]  # none of it, never drawn


def test_classes_are_drawn_as_often_as_they_should(tiny_streets: Path, tmp_path: Path) -> None:
    reader = StreetsData(tiny_streets, TINY).open("source", "train")
    counts = class_pixels(reader, 15, tmp_path)
    for index in range(len(reader)):
        label = reader.read(index, Wants(labels=(0,))).labels[0]
        assert label is not None
        assert counts[index].tolist() == [int((label == c).sum()) for c in range(15)]
    again = class_pixels(reader, 15, tmp_path)  # read, not counted
    assert np.array_equal(counts, again)
    options = RareClasses(temperature=0.1, least_share=0.01)
    made = {"seed": 3, "steps": 2000, "batch_size": 1}
    sampler = RareClassSampler(counts, 48 * 96, options, start=0, **made)
    drawn = [tickets[0].clip for tickets in sampler]
    assert drawn[7:] == [tickets[0].clip for tickets in RareClassSampler(counts, 48 * 96, options, start=7, **made)]
    shown = counts > 0.01 * 48 * 96
    share = sampler.probabilities
    expected = sum(share[c] * shown[:, c] / max(1, shown[:, c].sum()) for c in range(15))
    found = Counter(drawn)
    assert [found[i] / 2000 for i in range(len(reader))] == pytest.approx(expected, abs=0.04)
    with pytest.raises(DataError, match="no clip shows a class"):
        RareClassSampler(counts, 48 * 96, RareClasses(least_share=1.0), start=0, **made)


def test_ranks_draw_what_one_process_would() -> None:
    counts = np.random.default_rng(0).integers(0, 100, (9, 4))
    both = [
        RareClassSampler(counts, 100, RareClasses(), seed=1, start=0, steps=3, batch_size=2, rank=r, world_size=2)
        for r in range(2)
    ]
    alone = RareClassSampler(counts, 100, RareClasses(), seed=1, start=0, steps=3, batch_size=4)
    assert [a + b for a, b in zip(*both, strict=True)] == list(alone)


def test_torn_statistics_are_told(tiny_streets: Path, tmp_path: Path) -> None:
    reader = StreetsData(tiny_streets, TINY, loading=Loading()).open("source", "train")
    class_pixels(reader, 15, tmp_path)
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="torn"):
        class_pixels(reader, 15, tmp_path)
    np.save(path, np.zeros((2, 15), np.int64))
    with pytest.raises(DataError, match="other clips"):
        class_pixels(reader, 15, tmp_path)


class Sides(nn.Module):
    """A network and its adversary, small."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Conv2d(3, 5, 1)
        self.discriminator = Discriminator(5, DiscriminatorOptions(width=2))

    def maps(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        known, unknown = torch.rand(2, 2, 3, 32, 32, generator=generator)
        return softmax(self.network(known), 1), softmax(self.network(unknown), 1)

    def loss(self, step: int) -> Tensor:
        known, unknown = self.maps(step)
        adversarial = domain_loss(self.discriminator.frozen(unknown), "source")
        scores = {"source": self.discriminator.detached(known), "target": self.discriminator.detached(unknown)}
        own = domain_loss(scores["source"], "source") + domain_loss(scores["target"], "target")
        return known.square().mean() + 0.1 * adversarial + 0.5 * own


def two_passes(sides: Sides, step: int) -> None:
    """As the lineage's code does it: one backward pass a side, the discriminator fixed during the first."""
    known, unknown = sides.maps(step)
    for parameter in sides.discriminator.parameters():
        parameter.requires_grad_(False)
    adversarial = binary_cross_entropy_with_logits(sides.discriminator(unknown), torch.zeros(2, 1, 1, 1))
    (known.square().mean() + 0.1 * adversarial).backward()  # type: ignore[no-untyped-call]
    for parameter in sides.discriminator.parameters():
        parameter.requires_grad_(True)
    for maps, label in ((known, 0.0), (unknown, 1.0)):
        scores = sides.discriminator(maps.detach())
        (0.5 * binary_cross_entropy_with_logits(scores, torch.full_like(scores, label))).backward()  # type: ignore[no-untyped-call]


def test_one_backward_pass_gives_each_side_its_gradients() -> None:
    one, two = Sides(), Sides()
    one.loss(0).backward()  # type: ignore[no-untyped-call]
    two_passes(two, 0)
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, msg=name)
        assert a.grad.any()


def joint(sides: Sides) -> Joint:
    network = torch.optim.SGD([{"name": "new", "params": list(sides.network.parameters())}], 0.1, momentum=0.9)
    judge = torch.optim.Adam([{"name": "discriminator", "params": list(sides.discriminator.parameters()), "lr": 1e-3}])
    return Joint([network, judge])


def test_two_optimisers_as_one_resume_to_the_last_bit() -> None:
    """Twenty steps with a schedule: whole, cut after seven, and a loop over two optimisers written by hand."""
    options = OptimizerOptions(power=0.9)
    whole, buffer = Sides(), io.BytesIO()
    optimizer = joint(whole)
    schedule = learning_rates(optimizer, options, 20)
    for step in range(20):
        optimizer.zero_grad()
        whole.loss(step).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step == 6:
            saved = {k: v.clone() for k, v in whole.state_dict().items()}, optimizer.state_dict(), schedule.state_dict()
            torch.save(saved, buffer)
    buffer.seek(0)
    cut = Sides()
    other = joint(cut)
    later = learning_rates(other, options, 20)
    model, state, rates = torch.load(buffer, weights_only=True)
    cut.load_state_dict(model)
    other.load_state_dict(state)
    later.load_state_dict(rates)
    for step in range(7, 20):
        other.zero_grad()
        cut.loss(step).backward()  # type: ignore[no-untyped-call]
        other.step()
        later.step()
    by_hand = Sides()
    sgd = torch.optim.SGD(by_hand.network.parameters(), 0.1, momentum=0.9)
    adam = torch.optim.Adam(by_hand.discriminator.parameters(), 1e-3)
    for step in range(20):
        for part, rate in ((sgd, 0.1), (adam, 1e-3)):
            part.zero_grad()
            part.param_groups[0]["lr"] = schedule_at(rate, step)
        by_hand.loss(step).backward()  # type: ignore[no-untyped-call]
        sgd.step()
        adam.step()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, cut.state_dict()[name]), name
        torch.testing.assert_close(value, by_hand.state_dict()[name], rtol=1e-5, atol=1e-6)


def schedule_at(rate: float, step: int) -> float:
    return float(rate * (1 - step / 20) ** 0.9)


def test_a_closure_is_called_once() -> None:
    sides = Sides()
    optimizer, calls = joint(sides), []

    def closure() -> float:
        calls.append(1)
        sides.loss(0).backward()  # type: ignore[no-untyped-call]
        return 3.0

    assert optimizer.step(closure) == 3.0
    assert calls == [1]
    assert {type(part) for part in optimizer.parts} == {torch.optim.SGD, torch.optim.Adam}
    assert all(part.state is optimizer.state for part in optimizer.parts)


def test_domain_losses_by_hand() -> None:
    scores = torch.tensor([0.0, 2.0])
    assert domain_loss(scores, "source").item() == pytest.approx((0.693147 + 2.126928) / 2)
    assert domain_loss(scores, "target").item() == pytest.approx((0.693147 + 0.126928) / 2)
    assert domain_loss(scores, "target", "lsgan").item() == pytest.approx(1.0)
    assert domain_loss(scores, "source", "lsgan").item() == pytest.approx(2.0)


def test_weighted_entropy_by_hand() -> None:
    even = weighted_entropy(torch.zeros(1, 4, 1, 1))
    assert even.flatten().tolist() == pytest.approx([0.25] * 4)
    sure = weighted_entropy(torch.tensor([1000.0, 0, 0, 0]).view(1, 4, 1, 1))
    assert sure.flatten().tolist() == [0, 0, 0, 0]  # and no NaN


@pytest.mark.slow
def test_a_recorded_run_of_two_sides(experiments: Path, tiny_streets: Path) -> None:
    run = fit(tiny_arguments("adversarial", tiny_streets, "--start_from=null"))
    record = read_record(run)
    assert record is not None
    content = weights.read(run / "checkpoints" / "last.ckpt")
    groups = {group["name"]: group["lr"] for group in content["optimizer_states"][0]["param_groups"]}
    assert set(groups) >= {"backbone", "classifiers", "discriminator"}
    assert any(name.startswith("discriminator.") for name in content["state_dict"])


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=1.0"])
def test_half_precision_and_clipping_work_on_both_sides(
    extra: str, experiments: Path, tiny_streets: Path, tmp_path: Path
) -> None:
    """One optimiser object is all that Lightning sees."""
    args = tiny_arguments("adversarial", tiny_streets, "--start_from=null", extra, "--run.checkpoint_every=1")
    assert fit_until(3, args)
    begun = weights.read(tmp_path / "runs/streets/adversarial/seed0/checkpoints/last.ckpt")["state_dict"]
    ended = weights.read(fit(args) / "checkpoints" / "last.ckpt")["state_dict"]
    for part in ("network.segmenter.backbone.conv1.weight", "discriminator.layers.0.weight"):
        assert not torch.equal(begun[part], ended[part])
