"""The guard: what it sees of networks, which it refuses and why, and which it returns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import stpl
from stpl.apply.guard import Candidate, Sight, agreement, choose, judged, look
from stpl.apply.loaded import load_network, open_network
from stpl.apply.origin import NetworkOrigin
from stpl.apply.settings import AdaptationSettings
from stpl.apply.stages import Clock, Stage
from stpl.data.clip import BACKWARD, Wants, collate
from stpl.data.videos.video_clips import VideoFrames
from stpl.errors import ConfigError
from stpl.metrics.selection import InformationMaximization

pytestmark = pytest.mark.slow

SIZE = (64, 96)


def scored(*rows: tuple[str, float, tuple[str, ...]]) -> list[Candidate]:
    """Candidates by title and score, and why they are refused."""
    steps = {title: int(title.removeprefix("step ")) for title, _, _ in rows if title.startswith("step")}
    return [Candidate(title, Path(title), steps.get(title, 0), score, refusals=why) for title, score, why in rows]


LOST = ("loses person, truck",)
START, ORIGINAL, AUGMENTED = (("start", 1, LOST), ("original statistics", 1, ()), ("augmented statistics", 1, ()))


@pytest.mark.parametrize(
    ("rows", "take", "chosen", "preferred", "other"),
    [
        ([START, ORIGINAL, AUGMENTED, ("step 20", 1, ()), ("step 40", 1, ())], None, "step 40", "step 40", "step 20"),
        ([START, ORIGINAL, ("step 20", 1, ()), ("step 40", 9, LOST)], None, "step 20", "step 20",
         "original statistics"),
        ([START, ORIGINAL, AUGMENTED, ("step 20", 9, LOST)], None, "augmented statistics", "augmented statistics",
         "original statistics"),
        ([("start", 1, ()), ORIGINAL, AUGMENTED, ("step 20", 9, LOST)], None, "start", "start", "augmented statistics"),

        ([START, ORIGINAL, ("step 20", 9, LOST)], "step20", "step 20", "original statistics", "original statistics"),
        ([START, ORIGINAL, ("step 20", 9, ())], "start", "start", "step 20", "step 20"),
        ([START, ORIGINAL, AUGMENTED, ("step 20", 9, ())], "statistics", "augmented statistics", "step 20", "step 20"),
        ([START, ORIGINAL, AUGMENTED, ("step 20", 9, ())], "original", "original statistics", "step 20", "step 20"),
        ([("start", 1, ()), ("step 20", 9, LOST)], None, "start", "start", "step 20"),
    ],
)  # fmt: skip
def test_the_guard_takes_the_last_that_it_trusts(
    rows: Sequence[tuple[str, float, tuple[str, ...]]], take: str | None, chosen: str, preferred: str, other: str
) -> None:
    """Or what it is asked for; it says which it refuses and why, and knows the best that is not returned."""
    verdict = choose(scored(*rows), take)
    assert (verdict.chosen.title, verdict.preferred.title) == (chosen, preferred)
    assert verdict.other is not None
    assert verdict.other.title == other
    assert verdict.adapted == (chosen != "start")
    assert ("the guard would return" in verdict.reason) == (chosen != preferred)
    assert ("loses person, truck" in verdict.reason) == any(why for _, _, why in rows)


def test_a_network_that_is_not_there_cannot_be_taken() -> None:
    with pytest.raises(ConfigError, match="take: unknown network 'statistics'"):
        choose(scored(("start", 1, ()), ("step 20", 1, ())), "statistics")
    with pytest.raises(ConfigError, match="step30"):
        AdaptationSettings(take="step30")
    assert AdaptationSettings(steps=90, take="step36").evaluated == range(18, 91, 18)


def test_what_the_guard_sees(drive: Path) -> None:
    model = open_network(NetworkOrigin(network="streets", size=SIZE))
    reader = VideoFrames(drive)
    clips = [
        collate([reader.read(place, Wants(flows=(BACKWARD,))) for place in places]) for places in ((0, 1), (2, 3, 4))
    ]
    found = look(model.accel, clips)
    assert found.labels.shape == (5, *SIZE)
    assert 50 < found.consistency <= 100
    score = InformationMaximization(15)
    with torch.no_grad():
        for clip in clips:
            score.update(model.accel(clip))
    assert found.score == pytest.approx(float(score.compute()))


def sight(*shares: float) -> Sight:
    """Four classes side by side in a frame of 100 × 100, as wide as it says in percent; the last has the rest."""
    labels = torch.full((1, 100, 100), len(shares), dtype=torch.uint8)
    ends = np.cumsum(shares).astype(int)
    for number, end in reversed(list(enumerate(ends))):
        labels[..., :end] = number
    return Sight(labels, 1.0, 95.0)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (sight(50, 30, 10), None),
        (sight(60, 40), "loses tree, sky"),
        (sight(50, 30, 10)._replace(consistency=80.0), "wavers"),
        (sight(0, 0, 2), "agrees with neither"),
    ],
)
def test_why_a_network_is_refused(end: Sight, said: str | None) -> None:
    """Not for the temperature of its logits, which none of this depends on."""
    names = [Candidate(title, Path(title)) for title in ("start", "original statistics", "augmented statistics")]
    sights = [sight(20, 20, 20), sight(50, 30, 11), sight(52, 30, 10), end]
    found = judged([*names, Candidate("step 20", Path("end"), 20)], sights, ("road", "car", "tree", "sky"))
    assert not found[1].refusals
    assert not found[2].refusals
    assert bool(found[3].refusals) == (said is not None)
    assert said is None or said in " ".join(found[3].refusals)
    assert found[1].shares == pytest.approx((50, 30, 11, 9))


def test_agreement_is_that_of_classes() -> None:
    one, other = sight(50, 30, 10).labels, sight(50, 40, 0).labels
    assert agreement(one, one, 4) == 100
    assert agreement(one, other, 4) == pytest.approx((100 + 75 + 0 + 100) / 4)


def test_candidates_do_not_see_with_what_another_left_in_the_network(drive: Path, tmp_path: Path) -> None:
    """What a network of one's own keeps beside its weights is that of the candidate alone."""
    (tmp_path / "classes.yaml").write_text("classes: [a, b, c, d, e]\n")
    net = stpl.load("own_networks:Merging", size=SIZE, features="stem", classes=tmp_path / "classes.yaml")
    found = stpl.adapt(net, drive, tmp_path / "out", experiment="self_training", steps=2, batch_size=1, lr=1e-2)
    alone = [look(load_network(one.checkpoint, net.builder), found.looked.clips) for one in found.verdict.scored]
    assert [one.score for one in found.looked.sights] == [one.score for one in alone]
    assert len({one.score for one in alone}) == len(alone) == 5


def test_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said until each kind of work has been timed; the first piece of a kind may take longer."""
    now = iter([0.0, 9.0, 10.0, 30.0, 32.0, 33.0, 35.0])
    monkeypatch.setattr("stpl.apply.stages.time.monotonic", lambda: next(now))
    stages: list[Stage] = []
    clock = Clock({"look": 3, "step": 3}, stages.append)
    for kind in ("look", "look", "step", "step", "look", "step"):
        clock.add(kind)
    assert [one.left for one in stages] == [None, None, 41.0, 3.0, 2.0, 0.0]
    assert stages[-1] == Stage("step", 3, 3, 0.0)
