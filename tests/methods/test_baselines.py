"""The rows of Tables 1 and 2 that other papers' methods are: each keeps what every method must, and its numbers."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from random_clips import clips
from stpl.data.clip import BACKWARD, Batch, Clip
from stpl.losses.entropy import certain_consistency
from stpl.losses.instance_contrast import instance_contrast
from stpl.methods.da_vsn import DAVSN, _similarity
from stpl.methods.hcl import HCL, agreement_of
from stpl.methods.pixmatch import PixMatch
from stpl.methods.ur import UR
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.discriminator import DiscriminatorOptions
from stpl.nn.mixing import box_mask, cutmix_box, paste, resized
from stpl.nn.network import NetworkOptions
from stpl.nn.segmenter import upsample
from stpl.nn.teacher import TeacherOptions
from stpl.nn.warp import inside
from stpl.runs.build import build
from stpl.testing import check_method, check_ranks
from stpl.testing.runs import tiny_arguments
from stpl.training.optimization import OptimizerOptions

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2), auxiliary=True))
NARROW = "--model.discriminator.width=4"
RATE = "--optimizer.lr=6.0e-4"  # whatever a search finds for streets; so too the settings of the papers below


@pytest.mark.long
def test_rows_with_source_conform(tiny_streets: Path, tmp_path: Path) -> None:
    here: Any = {"source": True, "ranks": False, "streets": tiny_streets}
    check_method("fda", tmp_path / "fda", RATE, "--model.beta=0.01", golden=[2.86843, 2.74891, 2.70763, 2.58], **here)
    check_method("pixmatch", tmp_path / "pixmatch", RATE, golden=[3.35804, 3.24208, 3.19497, 3.04125], **here)
    weight = "--model.weight=0.001"
    check_method(
        "da_vsn", tmp_path / "da_vsn", RATE, NARROW, weight, golden=[4.25245, 4.19557, 4.24561, 4.19767], **here
    )


@pytest.mark.long
def test_source_free_rows_conform(tiny_streets: Path, tmp_path: Path) -> None:
    here: Any = {"ranks": False, "streets": tiny_streets}
    golden = [4.90963e-06, 5.75257e-06, 4.57516e-06, 6.32847e-06]  # λu is 0.001
    check_method("da_vsn_target", tmp_path / "da_vsn", RATE, golden=golden, **here)
    uncertainty = "--model.uncertainty_weight=0.1"
    check_method("ur", tmp_path / "ur", RATE, uncertainty, golden=[3.12371, 3.05786, 3.10026, 3.10294], **here)
    often = ("--model.history.period=2", "--model.contrast_weight=0.5")
    check_method("hcl", tmp_path / "hcl", RATE, *often, golden=[1.1292, 1.13928, 1.13056, 1.12701], **here)


@pytest.mark.long
def test_two_processes_train_as_one(tiny_streets: Path, tmp_path: Path) -> None:
    """All rows in one pair of processes. UR's dropout is another one in each, so it is left out."""
    cases = {
        "affine_teacher": ["--model.balance=0.5", "--model.restoration=0.1"],
        "tent": [],
        "cotta": ["--model.scales=[0.5,1.5]"],
        "adaptsegnet": [NARROW],
        "advent": [NARROW],
        "minent": [],
        "minent_target": [],
        "fda": [],
        "da_vsn": [NARROW],
        "da_vsn_target": [],
        "ur": ["--model.dropout=0"],
        "pixmatch": [],
        "hcl": [],
        "cbst": ["--model.rounds=1"],
        "crst_mrkld": ["--model.rounds=1"],
        "crst_lrent_target": ["--model.rounds=1"],
        "iast_target": ["--model.rounds=1", "--model.initial=0.1"],
        "mean_teacher": [],
        "tps": [],
        "rda": [NARROW],
        "vat": [NARROW],
        "vat_vst_target": ["--model.rounds=1", "--model.initial=0.1"],
    }
    check_ranks(cases, tmp_path, streets=tiny_streets)


# --- DA-VSN -----------------------------------------------------------------------------------------------------------


def slowly(logits: Tensor, previous: Tensor, there: Tensor) -> float:
    """The consistency, pixel by pixel."""
    batch, _, height, width = logits.shape
    total = 0.0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                p = logits[b, :, y, x].softmax(0).tolist()
                q = previous[b, :, y, x].tolist()
                entropies = [-sum(v * math.log(v) for v in values if v > 0) for values in (p, q)]
                if there[b, y, x] and entropies[1] < entropies[0]:
                    total += sum(abs(v - w) for v, w in zip(p, q, strict=True))
    return total / logits.numel()


def test_consistency_against_a_loop_over_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    previous = (2 * torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)).softmax(1)
    there = torch.rand(2, 5, 6, generator=generator) > 0.3
    found = certain_consistency(logits, previous, there)
    assert found.item() == pytest.approx(slowly(logits, previous, there), rel=1e-9)
    assert 0 < found < 2 / 4


def test_consistency_lets_no_gradient_into_the_past() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    previous = torch.eye(3)[:, :2, None].expand(3, 2, 2)[None].clone().requires_grad_()
    certain_consistency(logits, previous, torch.ones(1, 2, 2, dtype=torch.bool)).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.any()
    assert previous.grad is None
    equal = certain_consistency(logits, logits.softmax(1), torch.ones(1, 2, 2, dtype=torch.bool))
    assert equal.item() == 0


def test_what_lies_inside_the_frame_before() -> None:
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = 1.5
    assert inside(flow)[0].int().tolist() == [[1, 1, 0, 0]] * 3
    flow[:, 0], flow[:, 1] = 0, -1
    assert inside(flow)[0].int().tolist() == [[0] * 4, [1] * 4, [1] * 4]


def test_terms_of_da_vsn() -> None:
    options = DiscriminatorOptions(width=4)
    method = DAVSN(network=SMALL, optimizer=OptimizerOptions(), discriminator=options)
    assert {name for name, _ in method.discriminators.named_children()} == {
        f"{kind}_{of}" for kind in ("sequence", "image") for of in ("main", "auxiliary")
    }
    losses = method.losses(Batch(clips(1), clips(0, (64, 80))))
    assert len(losses) == 2 + 2 + 2 * 5
    assert losses["discriminator sequence main"].item() == pytest.approx(math.log(2), abs=0.1)
    assert losses["adversarial sequence main"].item() == pytest.approx(0.001 * math.log(2), rel=0.1)
    assert losses["adversarial image auxiliary"].item() == pytest.approx(0.0002 * math.log(2), rel=0.1)
    alone = DAVSN(network=SMALL, optimizer=OptimizerOptions(), source_free=True)
    assert set(alone.losses(Batch(clips(1)))) == {"consistency", "auxiliary consistency"}
    assert alone.source_wants is None
    assert not list(alone.discriminators.children())


def test_similarity_of_discriminators() -> None:
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert _similarity(one, one).item() == pytest.approx(2)
    with torch.no_grad():
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            b.copy_(-a)
    assert _similarity(one, other).item() == pytest.approx(0, abs=1e-6)


# --- UR ---------------------------------------------------------------------------------------------------------------


def test_disagreement_by_hand() -> None:
    method = UR(network=SMALL, optimizer=OptimizerOptions(), dropout=0.0)
    aim = torch.tensor([0.7, 0.2, 0.1]).log().view(1, 3, 1, 1)
    told = torch.tensor([0.6, 0.3, 0.1]).log().view(1, 3, 1, 1)
    method.decoders = torch.nn.ModuleList(Says(told) for _ in range(4))
    found = method._disagreement(torch.zeros(1, 8, 1, 1), aim.requires_grad_())
    assert found.item() == pytest.approx(4 * 0.0066667, rel=1e-4)
    assert not found.requires_grad  # nothing of it reaches the main classifier
    method.decoders = torch.nn.ModuleList(Says(aim.detach()) for _ in range(4))
    assert method._disagreement(torch.zeros(1, 8, 1, 1), aim).item() == 0


class Says(torch.nn.Module):
    """A classifier that says the same whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, features: Tensor) -> Tensor:
        return self.logits


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_the_classifier_stays_as_it_was(frozen: bool) -> None:
    method = UR(network=SMALL, optimizer=OptimizerOptions(), freeze_classifier=frozen).train()
    clip = clips(1)
    labelled = Batch(clip, prepared={"labels": torch.randint(0, 15, (2, 7, 9))})
    sum(method.losses(labelled).values()).backward()  # type: ignore[union-attr]
    assert (method.network.segmenter.classifier.conv2d_list[0].weight.grad is None) == frozen
    assert (method.network.score_fusion.weight.grad is None) == frozen
    assert all(parameter.grad is not None for parameter in method.decoders.parameters())


# --- PixMatch ---------------------------------------------------------------------------------------------------------


def test_boxes_cover_what_they_should() -> None:
    generator, size = np.random.default_rng(0), (60, 100)
    boxes = [cutmix_box(size, generator) for _ in range(2000)]
    assert all(0 <= top <= bottom <= 60 and 0 <= left <= right <= 100 for top, bottom, left, right in boxes)
    centred = [(b - t) * (r - w) / 6000 for t, b, w, r in boxes if t > 0 and w > 0 and b < 60 and r < 100]
    assert max(centred) > 0.5
    assert min(centred) < 0.01
    mask = box_mask([(1, 3, 2, 5), (0, 0, 0, 0)], (4, 6), torch.device("cpu"))
    assert mask[0].sum() == 6
    assert mask[0, 1, 2]
    assert not mask[1].any()


def test_every_field_of_a_mixed_clip_comes_from_the_same_clip() -> None:
    base, patch = (
        Clip(
            torch.full((2, 2, 3, 8, 9), v),
            {BACKWARD: torch.full((2, 2, 8, 9), float(v))},
            {0: torch.full((2, 8, 9), v)},
        )
        for v in (1, 2)
    )
    mask = torch.rand(2, 8, 9, generator=torch.Generator().manual_seed(0)) > 0.5
    mixed = paste(base, patch, mask)
    assert torch.equal(mixed.labels[0], mask.long() + 1)
    assert all(
        torch.equal(x, mixed.labels[0])
        for x in (*mixed.frames.flatten(1, 2).unbind(1), *mixed.flows[BACKWARD].unbind(1))
    )
    assert torch.equal(paste(base, patch, torch.zeros_like(mask)).frames, base.frames)


def test_a_resized_clip_moves_as_before() -> None:
    clip = clips(0, (33, 65))
    small = resized(clip, (17, 33))
    assert (small.frames.dtype, small.frames.shape) == (torch.uint8, (2, 2, 3, 17, 33))
    torch.testing.assert_close(small.flows[BACKWARD], clip.flows[BACKWARD][..., ::2, ::2] / 2, rtol=1e-4, atol=1e-5)
    assert set(small.labels[0].flatten().tolist()) <= set(range(15))
    assert resized(clip, (33, 65)) is clip


def test_terms_of_pixmatch() -> None:
    batch = Batch(clips(1), clips(0, (64, 80), 3))
    every = PixMatch(network=SMALL, optimizer=OptimizerOptions(), augmentation_weight=0.1)
    assert every.wants.augmented
    assert not PixMatch(network=SMALL, optimizer=OptimizerOptions()).wants.augmented
    alone = PixMatch(network=SMALL, optimizer=OptimizerOptions(), fourier_weight=0, cutmix_weight=0)
    assert set(alone.losses(batch)) == {"cross_entropy", "auxiliary"}
    unchanged = PixMatch(
        network=SMALL, optimizer=OptimizerOptions(), fourier_weight=1, cutmix_weight=0, beta=0
    )  # β 0 changes nothing
    with torch.no_grad():
        logits = upsample(unchanged.network(batch.target), (48, 64))
        expected = -logits.log_softmax(1).max(1)[0].mean()
    found = unchanged.losses(batch)
    assert found["fourier, cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-3)
    mixed = PixMatch(network=SMALL, optimizer=OptimizerOptions())._mixed(clips(1), clips(0, (64, 80), 3))
    assert mixed.frames.shape == clips(1).frames.shape


# --- HCL --------------------------------------------------------------------------------------------------------------


def slow_contrast(
    queries: Tensor, keys: Tensor, reliability: Tensor, labels: Tensor | None, temperature: float
) -> float:
    """The instance contrast, pair by pair."""
    count, total = len(queries), 0.0
    for i in range(count):
        terms = {j: math.exp((queries[i] @ keys[j]).item() / temperature) * reliability[j].item() for j in range(count)}
        if labels is None:
            total -= math.log(terms[i] / sum(terms.values()))
        else:
            norm = sum(term for j, term in terms.items() if j != i)
            total -= sum(math.log(terms[j] / norm) for j in terms if j != i and labels[j] == labels[i]) / count
    return total / count


@pytest.mark.parametrize("positives", ["instance", "class"])
def test_instance_contrast_against_a_loop(positives: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several blocks, the last one smaller.
    monkeypatch.setattr(import_module("stpl.losses.instance_contrast"), "_BLOCK", 4)
    generator = torch.Generator().manual_seed(0)
    queries, keys = normalize(torch.randn(2, 11, 5, generator=generator, dtype=torch.float64), dim=2)
    reliability = 0.9 + 0.2 * torch.rand(11, generator=generator, dtype=torch.float64)
    labels = None if positives == "instance" else torch.randint(0, 3, (11,), generator=generator)
    found = instance_contrast(queries, keys, reliability, labels, temperature=0.5)
    assert found.item() == pytest.approx(slow_contrast(queries, keys, reliability, labels, 0.5), rel=1e-9)
    queries.requires_grad_()

    def loss(q: Tensor) -> Tensor:
        return instance_contrast(q, keys, reliability, labels, temperature=0.5)

    assert torch.autograd.gradcheck(loss, (queries,))


def test_instance_contrast_by_hand() -> None:
    z = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    ones, labels = torch.ones(4), torch.tensor([0, 0, 1, 1])
    assert instance_contrast(z, z, ones, labels, temperature=1.0).item() == pytest.approx(0.13786, abs=1e-5)
    assert instance_contrast(z, z, ones, torch.arange(4), temperature=1.0).item() == 0  # no positives
    assert instance_contrast(z, z, ones, temperature=1.0).item() == pytest.approx(math.log(2 + 2 / math.e), abs=1e-6)


def test_agreement_by_hand() -> None:
    p, q = (torch.tensor(x).log().view(1, 3, 1, 1) for x in ([0.7, 0.2, 0.1], [0.5, 0.3, 0.2]))
    assert agreement_of(p, q).item() == pytest.approx(0.40131, abs=1e-5)
    assert agreement_of(p, p).item() == pytest.approx(0.5)
    assert agreement_of(1000 * torch.eye(3)[:1, :, None, None], 1000 * torch.eye(3)[1:2, :, None, None]).item() == (
        pytest.approx(0.11920, abs=1e-5)
    )
    assert agreement_of(q, p, "divergence").item() == pytest.approx(0.91840, abs=1e-5)
    assert agreement_of(p, q, "divergence").item() == pytest.approx(0.9121, abs=1e-4)


def test_the_historical_network_is_the_one_of_some_steps_ago() -> None:
    method = HCL(network=SMALL, optimizer=OptimizerOptions(), history=TeacherOptions(decay=0, warmup=False, period=3))
    seen = []
    for step in range(7):
        with torch.no_grad():
            method.network.score_fusion.weight.fill_(float(step))
        method.history.follow(method.network, step)
        seen.append(method.history.network.score_fusion.weight[0, 0, 0, 0].item())
    assert seen == [0, 0, 0, 3, 3, 3, 6]
    losses = method.losses(Batch(clips(1)))
    assert set(losses) == {"self_training", "contrast"}
    coded = HCL(network=SMALL, optimizer=OptimizerOptions(), positives="class", agreement="divergence")
    assert all(loss.isfinite() for loss in coded.losses(Batch(clips(1))).values())


def test_one_setting_of_a_copy_leaves_the_others(tiny_streets: Path) -> None:
    """A copy of some steps ago must not become a moving average because its period was set."""
    hcl = tiny_arguments("hcl", tiny_streets, "--start_from=null", "--model.history.period=2")
    assert build(hcl)[0].model.history.options == TeacherOptions(decay=0.0, warmup=False, period=2)
    pixmatch = tiny_arguments("pixmatch", tiny_streets, "--start_from=null", "--model.teacher.decay=0.9")
    found = build(pixmatch)[0].model.average.options
    assert found == TeacherOptions(decay=0.9, warmup=True, statistics="student")  # as the overlay of streets says
