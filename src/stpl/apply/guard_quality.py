"""`stpl report --guard`: what the guard chooses in recorded runs and how good that is, with simple rules beside it.

A case is a run before a camera: its candidates are the start, its renewed statistics and every checkpoint it kept.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from stpl.apply.adapt import spread
from stpl.apply.guard import KINDS, PRESENT, Candidate, Sight, Verdict, choose, judged, look, renewed
from stpl.apply.loaded import load_network
from stpl.apply.settings import LOOKED
from stpl.data.clip import BACKWARD, Clip, Wants, collate
from stpl.data.datamodule import StreetsData
from stpl.data.label_space import VIPER_15
from stpl.data.loading import Loading
from stpl.data.streets import StreetsOptions
from stpl.data.videos.content import content_id
from stpl.errors import RecordError
from stpl.metrics.segmentation import SegmentationMetrics
from stpl.nn import weights
from stpl.nn.accel import Accel, Observation
from stpl.nn.checkpoint_files import located
from stpl.nn.network import build_network
from stpl.progress import Progress
from stpl.runs.artifacts import write_arrays
from stpl.runs.record import CONFIG
from stpl.training.evaluation import predicted
from stpl.yaml_files import load_yaml

DAMAGES = {"without 3 classes, logits × 1.2": (3, 1.2), "without 5 classes, logits × 1.5": (5, 1.5)}
"""Damaged networks: how many of the rarest classes they never predict, and what their logits are multiplied by."""

_RENEWAL = 20  # batches of four clips
_BATCH = 4
_HEALTHY = 1e-9  # mIoU that a healthy network may be below the better statistics


class Known(NamedTuple):
    """A network that the guard looked at, and its mIoU in percent."""

    sight: Sight
    miou: float


class Case(NamedTuple):
    """What the guard did with the networks of a run."""

    miou: Mapping[str, float]  # of each candidate, by its name
    chosen: str
    refused: Sequence[str]  # names of candidates
    damaged: Mapping[str, bool]  # kind of damage → whether the guard refused it as the end of the training

    def regret(self, name: str) -> float:
        """How far a candidate is below the best one."""
        return max(self.miou.values()) - self.miou[name]


class _Damaged(Accel):
    """A network that never predicts some classes, and is surer of the others."""

    def __init__(self, network: Accel, lost: Sequence[int], factor: float) -> None:
        super().__init__(network.segmenter)
        self.score_fusion, self.lost, self.factor = network.score_fusion, list(lost), factor

    def observe(self, clip: Clip) -> Observation:
        """See `Accel.observe`."""
        features, *both = super().observe(clip)
        logits, previous = (one * self.factor for one in both)
        for one in (logits, previous):
            one[:, self.lost] = one.min() - 1
        return Observation(features, logits, previous)


def show_choices(runs: Path) -> None:
    """Have the guard choose among the networks of all runs on streets that kept them, and print how well it does.

    Raises:
        RecordError: there is no such run.
    """
    found = [path.parent for path in sorted((runs / "streets").glob(f"*/seed*/{CONFIG}")) if _kept(path.parent)]
    if not found:
        mend = "record them: stpl sweep guard"
        raise RecordError("no run kept the checkpoints of its evaluations", where=runs / "streets", mend=mend)
    progress, cases, unknown = Progress("guard", len(found)), [], dict[str, bool]()
    for run in found:
        camera = _Camera(run, runs / "streets" / "guard")
        cases.append(camera.case())
        unknown[camera.name] = camera.knows_nothing()
        progress.add()
    Console().print(regrets(cases))
    for line in _lines(cases, unknown):
        print(line)


def _kept(run: Path) -> bool:
    """Whether an adaptation ran to its end there and kept the network of every evaluation."""
    config = load_yaml(run / CONFIG)
    adapts = config["data"]["init_args"].get("domain", "target") == "target"
    return adapts and (run / "checkpoints" / f"step{config['trainer']['max_steps']}.ckpt").is_file()


class _Camera:
    """A run, what it began with, and the frames of its camera that the guard sees and that are labelled."""

    def __init__(self, run: Path, kept: Path) -> None:
        config = load_yaml(run / CONFIG)
        data = config["data"]["init_args"]
        self.run, self.kept, self.start = run, kept, located(Path(config["model"]["init_args"]["checkpoint"]))
        self.place = (str(data["root"]), json.dumps(data["options"], sort_keys=True))
        self.name = f"{self.place} {content_id(self.start)}"
        self.steps = sorted(int(path.stem[4:]) for path in (run / "checkpoints").glob("step[1-9]*.ckpt"))

    def case(self) -> Case:
        """What the guard does with the networks of the run."""
        candidates, known = self._untrained(lambda: load_network(self.start), content_id(self.start))
        for step in self.steps:
            path = self.run / "checkpoints" / f"step{step}.ckpt"
            candidates.append(Candidate(f"step {step}", path, step))
            known.append(self._known(content_id(path), partial(load_network, path)))
        last = candidates.pop()
        ends = {"": known.pop(), "random weights": self._untrained(self._random, "random")[1][-1]}
        counts = torch.bincount(ends[""].sight.labels.flatten(), minlength=len(VIPER_15.classes))
        seen = [k for k in counts.argsort().tolist() if counts[k] > PRESENT / 100 * counts.sum()]
        for kind, (lost, factor) in DAMAGES.items():
            make = partial(_damaged, last.checkpoint, seen[:lost], factor)
            ends[kind] = self._known(f"{content_id(last.checkpoint)} {kind}", make)
        verdicts = {kind: _verdict([*candidates, last], [*known, end]) for kind, end in ends.items()}
        miou = {one.name: each.miou for one, each in zip([*candidates, last], [*known, ends[""]], strict=True)}
        refused = [one.name for one in verdicts[""].scored if one.refusals]
        damaged = {kind: bool(verdict.scored[-1].refusals) for kind, verdict in verdicts.items() if kind}
        return Case(miou, verdicts[""].chosen.name, refused, damaged)

    def knows_nothing(self) -> bool:
        """Whether the guard says of a start with random weights that it knows nothing."""
        return not _verdict(*self._untrained(self._random, "random")).knows

    def _untrained(self, network: Callable[[], Accel], name: str) -> tuple[list[Candidate], list[Known]]:
        """A start, and the same with renewed statistics of both kinds."""
        candidates = [Candidate("start", self.start), *(Candidate(f"{kind} statistics", self.start) for kind in KINDS)]
        return candidates, [
            self._known(f"{name} {one.name}", partial(self._with, network, one.name)) for one in candidates
        ]

    def _with(self, network: Callable[[], Accel], kind: str) -> Accel:
        """The network with renewed statistics of a kind, or as it is."""
        found = network()
        if kind in KINDS:
            clips = _data(*self.place).renewal_clips(_RENEWAL, augmented=True)
            for _ in takewhile(lambda one: one != kind, renewed(found, clips)):
                pass
        return found

    def _random(self) -> Accel:
        """The same network, with weights that nothing taught."""
        torch.manual_seed(0)
        return build_network(weights.describe(self.start)).eval()

    def _known(self, name: str, network: Callable[[], Accel]) -> Known:
        """What the guard sees of a network, and its mIoU; read where an earlier call has found it."""
        digest = hashlib.sha256(json.dumps([self.place, name, LOOKED, _RENEWAL]).encode()).hexdigest()[:16]
        path = self.kept / f"{digest}.npz"
        if not path.is_file():
            made, (looked, labelled) = network(), _clips(*self.place)
            sight, metric = look(made, looked), SegmentationMetrics.of(VIPER_15)
            with torch.no_grad():
                for clip in labelled:
                    metric.update(predicted(made.observe(clip).logits, clip), clip.labels[0])
            numbers = [sight.score, sight.consistency, float(metric.compute()["miou"])]
            write_arrays(path, {"labels": sight.labels.numpy(), "numbers": np.array(numbers)})
        with np.load(path) as arrays:
            score, consistency, miou = map(float, arrays["numbers"])
            return Known(Sight(torch.from_numpy(arrays["labels"]), score, consistency), miou)


def _verdict(candidates: Sequence[Candidate], known: Sequence[Known]) -> Verdict:
    return choose(judged(candidates, [one.sight for one in known], VIPER_15.classes))


def _damaged(checkpoint: Path, lost: Sequence[int], factor: float) -> Accel:
    return _Damaged(load_network(checkpoint), lost, factor)


@lru_cache(maxsize=1)
def _data(root: str, options: str) -> StreetsData:
    return StreetsData(Path(root), StreetsOptions(**json.loads(options)), loading=Loading(batch_size=_BATCH))


@lru_cache(maxsize=1)
def _clips(root: str, options: str) -> tuple[list[Clip], list[Clip]]:
    """The clips that the guard looks at, and the labelled ones."""
    data = _data(root, options)
    reader = data.reader("val", "target")
    clips = [reader.read(place, Wants(flows=(BACKWARD,), labels=(0,))) for place in range(len(reader))]
    return spread(data, LOOKED)[1], [collate(clips[first : first + _BATCH]) for first in range(0, len(clips), _BATCH)]


def regrets(cases: Sequence[Case]) -> Table:
    """A line for the guard and for every simple rule."""
    known = dict.fromkeys(name for case in cases for name in case.miou)
    choices: dict[str, list[str]] = {"guard": [case.chosen for case in cases]}
    choices |= {f"always {name}": [name] * len(cases) for name in known}
    choices["always the last"] = [[*case.miou][-1] for case in cases]
    choices["oracle"] = [max(case.miou, key=lambda name: case.miou[name]) for case in cases]
    table = Table(title=f"Regret in mIoU over {len(cases)} cases")
    for column in ("rule", "mean", "worst", "below start, %", *(f"below {kind} statistics, %" for kind in KINDS)):
        table.add_column(column)
    for title, names in choices.items():
        having = [(case, name) for case, name in zip(cases, names, strict=True) if name in case.miou]  # steps differ
        lost = [case.regret(name) for case, name in having]
        below = [np.mean([case.miou[name] < case.miou[other] for case, name in having]) for other in ("start", *KINDS)]
        table.add_row(title, f"{np.mean(lost):.2f}", f"{max(lost):.1f}", *(f"{100 * share:.0f}" for share in below))
    return table


def _lines(cases: Sequence[Case], unknown: Mapping[str, bool]) -> Iterator[str]:
    """What the guard refused, and what it should have."""
    for kind in DAMAGES | {"random weights": ()}:
        yield f"refused, {kind}: {sum(case.damaged[kind] for case in cases)} of {len(cases)}"
    yield f"a start with random weights is said to know nothing: {sum(unknown.values())} of {len(unknown)}"
    healthy = [
        (case, name)
        for case in cases
        for name in case.miou
        if name.startswith("step") and case.miou[name] >= max(case.miou[kind] for kind in KINDS) - _HEALTHY
    ]
    wrong = sum(name in case.refused for case, name in healthy)
    yield f"refused of trained networks that are no worse than both kinds of statistics: {wrong} of {len(healthy)}"
