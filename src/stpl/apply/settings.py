"""How to adapt, checked before anything heavy is imported. Imports no torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stpl.apply import option_values as values
from stpl.errors import unknown
from stpl.files import check_file
from stpl.option_types import Amount, Count, Natural
from stpl.runs.experiments import overlays
from stpl.runs.request import PRECISIONS

Format = Literal["onnx", "torchscript"]
Output = Literal["logits", "ids"]
Codec = Literal["vp8", "vp9"]

RECOMMENDED = "affine_teacher"
"""The experiment that runs unless another is named: see docs/methods/affine_teacher.md."""

BENCH = "video"
"""The benchmark whose overlay describes footage of one's own."""

LOOKED = 24
"""Pairs of frames that the guard looks at."""

ADAPTED, STATE, VERDICT, PAGE, SIDE_BY_SIDE = OUTPUTS = (
    "adapted.ckpt",
    "adapted.pt",
    "adaptation.json",
    "index.html",
    "side_by_side.webm",
)
"""Files that an adaptation writes into its folder at its end."""

_EVALUATIONS = (4, 5, 3, 6, 2)  # networks on the way that can be chosen: the first number that divides the steps
_RANGES = {"steps": (0, None), "batch_size": (1, None), "stride": (1, None), "seed": (0, 2**32 - 1)}
_MOST_LETTERS = 100  # of a video's name in that of its run


@dataclass(frozen=True)
class AdaptationSettings:
    """How to adapt.

    Attributes:
        experiment: which method; a name in experiments/tables.yaml.
        steps: training steps.
        lr: learning rate of the network; the method's own if not given.
        batch_size: clips a step; the most of 4, 2 and 1 that fits into memory if not given.
        stride: take every stride-th frame.
        seed: decides the order of clips and their augmentation.
        precision: of training, 32-true, bf16-mixed or 16-mixed; chosen from the hardware if not given.
        take: return this network whatever the guard says: start, original or augmented (renewed statistics),
            statistics (the kind of these that the guard prefers), or step40, the network at step 40. The guard chooses
            if not given.

    Raises:
        ConfigError: for a number of another type or out of its range, or an experiment or network that there is not.
    """

    experiment: str = RECOMMENDED
    steps: Natural = 80
    lr: Amount | None = None
    batch_size: Count | None = None
    stride: Count = 1
    seed: Natural = 0
    precision: str | None = None
    take: str | None = None

    def __post_init__(self) -> None:
        values.text(self.experiment, "experiment", "the name of an experiment")
        for name, (least, most) in _RANGES.items():
            if name != "batch_size" or self.batch_size is not None:
                object.__setattr__(self, name, values.whole(getattr(self, name), name, least, most))
        if self.lr is not None:
            object.__setattr__(self, "lr", values.amount(self.lr, "lr"))
        if self.precision is not None and self.precision not in PRECISIONS:
            raise unknown("precision", str(self.precision), PRECISIONS, "precision")
        overlays(self.experiment, BENCH)
        known = ("start", "statistics", "original", "augmented", *(f"step{step}" for step in self.evaluated))
        if self.take is not None and self.take not in known:
            raise unknown("network", str(self.take), known, "take")

    @property
    def interval(self) -> int:
        """Steps from one evaluation of the training to the next."""
        return max(1, self.steps // next((count for count in _EVALUATIONS if self.steps % count == 0), 1))

    @property
    def evaluated(self) -> range:
        """The steps whose networks can be returned."""
        return range(self.interval, self.steps + 1, self.interval)


def run_name(videos: Sequence[Path]) -> str:
    """The first video's name, without characters that a run's name may not have."""
    name = re.sub(r"^\.+|[^\w .=,+()-]", "_", videos[0].resolve().stem)[:_MOST_LETTERS].strip()
    return name or "video"


def check_outputs(folder: Path) -> None:
    """Raise `StplError` if one of the files that an adaptation ends with could not be written into `folder`."""
    for name in OUTPUTS:
        check_file(folder / name)
