"""Methods that label the whole target split, then train on these labels, in rounds (CBST, CRST, IAST, VST).

A round begins at a step: the network of that moment predicts all training clips, thresholds are chosen over all of
them, labels are written to `pseudo/round<k>` of the run's folder, and the optimiser starts afresh. Labels are looked up
by the clips' names in the process that trains; loader processes read ahead and would serve those of the round before.
"""

from __future__ import annotations

import hashlib
import inspect
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpl.data.clip import IGNORE, Batch, Clip, Wants
from stpl.data.pseudo_labels import PseudoLabels, Writer, finished
from stpl.errors import ConfigError, check_range
from stpl.nn.accel import Accel
from stpl.progress import Progress
from stpl.training.base import Method, check_output
from stpl.training.ranks import is_first, wait_for_all

BINS = 15361
"""Numbers of a half-precision float in [0, 1]: its bits count them in rising order."""


_PLAIN = (bool, int, float, str)


class Judgement(NamedTuple):
    """What is said of clips that are to be labelled.

    Attributes:
        doubts: one minus the probability of each class, float64 `[B,K,h,w]` in half precision (`doubts_of`).
        previous: the same of the previous frame, brought onto the current one.
        visible: bool `[B,h,w]`, which pixels the previous frame shows too.
    """

    doubts: Tensor
    previous: Tensor | None = None
    visible: Tensor | None = None

    def kept(self) -> Judgement:
        """The same in the host's memory, with doubts in half precision, which holds them exactly."""
        previous = None if self.previous is None else self.previous.half().cpu()
        return Judgement(self.doubts.half().cpu(), previous, None if self.visible is None else self.visible.cpu())

    def wide(self) -> Judgement:
        """The same with doubts in double precision."""
        return self._replace(
            doubts=self.doubts.double(), previous=None if self.previous is None else self.previous.double()
        )

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(tensor.nbytes for tensor in self if tensor is not None)


Said = tuple[tuple[str, ...], Judgement]
"""The names of a batch of clips, and what was said of them."""

_HELD = 2**30  # bytes of judgements that a process holds


class Rounds(Method):
    """Base of methods with labels that are a stage; sub-classes say which pixels get one.

    Args:
        rounds: how often the split is labelled; rounds are equally long.
        labels: finished labels to train on instead, of another run's last round, say; there is one round then.
    """

    def __init__(self, *, rounds: int = 3, labels: Path | None = None, **shared: Any) -> None:
        check_range("model.rounds", rounds, 1)
        super().__init__(**shared)
        self.rounds, self.labels = 1 if labels is not None else rounds, labels
        signatures = [inspect.signature(kind) for kind in type(self).__mro__ if issubclass(kind, Rounds)]
        self._settings = sorted(
            {name for own in signatures[:-1] for name in own.parameters} - {*signatures[-1].parameters}
        )
        self._round: int | None = None
        self._store: PseudoLabels | None = None

    judge_wants = Wants(flow=True)
    """What clips carry that are to be labelled."""

    def judge(self, clip: Clip) -> Judgement:
        """What the network says of a clip that is to be labelled: its prediction as evaluation makes it."""
        logits = self.evaluated.observe(clip).logits
        check_output(logits, clip)
        return Judgement(doubts_of(logits))

    def labellers(self) -> list[Accel]:
        """The networks that say it."""
        return [self.evaluated]

    def group(self, key: str) -> str:
        """Name of the clips that share thresholds with the clip `key`, which stand together: by default all do."""
        return ""

    @abstractmethod
    def thresholds(self, histogram: Tensor, before: Tensor | None, round_: int) -> Tensor:
        """What decides in a round which pixels of a group of clips get a label.

        Args:
            histogram: int64 `[K,BINS]`, how many of its pixels are predicted as each class with each doubt, as
                half-precision numbers count them (`doubt_of`).
            before: thresholds of the group before; `None` for the first.
            round_: number of the round, from 0.

        Returns:
            Thresholds float64 `[K]`, for `label`.
        """

    @abstractmethod
    def label(self, judged: Judgement, thresholds: Tensor) -> Tensor:
        """The labels int64 `[B,h,w]`, 255 where there is none, by thresholds float64 `[B,K]`."""

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Begin a round where one begins; find its labels again after an interruption."""
        steps = max(1, int(self.trainer.max_steps))
        round_ = self.global_step * self.rounds // steps
        if round_ != self._round:
            begins = self.global_step == -(-round_ * steps // self.rounds)
            self._store, self._round = self._labels_of(round_, begins), round_
            if begins and round_ > 0:
                self.trainer.optimizers[0].state.clear()
        super().on_train_batch_start(batch, batch_idx)

    def prepare(self, batch: Batch) -> Batch:
        """Add the round's labels to the target's clips."""
        assert self._store is not None  # made before the step
        assert isinstance(batch.target.key, tuple)
        label, doubt = (self.sent(values) for values in self._store.of(batch.target.key))
        return replace(batch, target=replace(batch.target, pseudo_label=label, doubt=doubt))

    def _labels_of(self, round_: int, begins: bool) -> PseudoLabels:
        if self.labels is not None:
            return self._given(self.labels)
        assert self.folder is not None  # a run has one
        folder = self.folder / "pseudo" / f"round{round_}"
        if finished(folder) and (not begins or PseudoLabels(folder).about == self._about(round_)):
            return PseudoLabels(folder)
        if not begins:
            raise ConfigError(
                "the labels of this round are gone, and so are the weights that made them",
                where=folder,
                mend=f"delete {self.folder} and run it again",
            )
        return self._make(folder, round_)

    def _given(self, folder: Path) -> PseudoLabels:
        if not finished(folder):
            raise ConfigError(
                "there are no pseudo-labels here",
                where=folder,
                mend="run the experiment that makes them, or check model.labels and --labels_from",
            )
        store = PseudoLabels(folder)
        clips, classes = self._data().reader("train", "target").name, list(self.options.space.classes)
        if (store.about["clips"], store.about["classes"]) != (clips, classes):
            raise ConfigError(
                f"these pseudo-labels are of {store.about['clips']}, not of {clips} with the network's classes",
                where=folder,
                mend="give labels of the same split, size and classes",
            )
        return store

    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _about(self, round_: int) -> dict[str, Any]:
        """What the labels depend on: weights, method, data."""
        digest = hashlib.blake2b(digest_size=16)
        for network in self.labellers():
            for name, value in network.state_dict().items():
                digest.update(name.encode())
                if not isinstance(value, Tensor):  # extra state
                    digest.update(repr(value).encode())
                    continue
                data: Any = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
                digest.update(data)
        return {
            "weights": digest.hexdigest(),
            "method": type(self).__name__,
            "settings": {
                name: value for name in self._settings if isinstance(value := getattr(self, name, None), _PLAIN)
            },
            "batchnorm": asdict(self.batchnorm),
            "clips": self._data().reader("train", "target").name,
            "classes": list(self.options.space.classes),
            "round": round_,
        }

    def _make(self, folder: Path, round_: int) -> PseudoLabels:
        """Label all clips, each process its share, and wait for the others."""
        count, processes = len(self._data().reader("train", "target")), self.trainer.world_size
        writer = Writer(folder, self._about(round_), processes)
        first, end = (count * (self.global_rank + i) // processes for i in (0, 1))
        running = [buffer.clone() for buffer in self._statistics()]
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        options = self.batchnorm
        if options.evaluation == "renewed" and options.policy != "frozen":
            self.renew_statistics(augmented=options.views == "all" and self.wants.augmented)
        try:
            if is_first():
                writer.begin(count, self._grid())
            wait_for_all()
            kept = self._survey(writer, first, end, count, round_)
            wait_for_all()
            self._write(writer, first, end, self._thresholds(writer, round_), round_, kept)
            wait_for_all()
            if is_first():
                writer.finish()
            wait_for_all()
        finally:
            for module, mode in modes:
                module.training = mode
            for buffer, before in zip(self._statistics(), running, strict=True):
                buffer.copy_(before)
        return PseudoLabels(folder)

    @torch.no_grad()
    def _judged(self, places: range) -> Iterator[tuple[Clip, Judgement]]:
        """Training clips with what is said of them, batch by batch."""
        for clip in self._data().unlabelled_clips(places, self.judge_wants):
            moved = clip.to(self.device)
            with self.trainer.precision_plugin.val_step_context():
                yield clip, self.judge(moved)

    def _grid(self) -> tuple[int, int]:
        doubts = next(self._judged(range(1)))[1].doubts
        return doubts.shape[-2], doubts.shape[-1]

    def _survey(self, writer: Writer, first: int, end: int, count: int, round_: int) -> list[Said] | None:
        """Keep the histograms of a stretch of the split, of each group the numbers that are not 0.

        Returns:
            What was said of each batch, so that it need not be asked again; `None` if that is too much to hold.
        """
        name = f"survey-{first:09d}"
        if writer.kept(name) is not None:
            return None
        said: list[Said] | None = []
        progress = Progress(f"round {round_}: looking at {count} clips", end - first) if is_first() else None
        group, parts = "", [_sparse("", torch.zeros(0))]
        histogram = torch.zeros(self.network.num_classes, BINS, dtype=torch.int64)
        for clip, judged in self._judged(range(first, end)):
            for place, key in enumerate(clip.key):
                if self.group(key) != group:
                    parts.append(_sparse(group, histogram))
                    group, histogram = self.group(key), torch.zeros_like(histogram)
                add_to(histogram, judged.doubts[place : place + 1])
            if said is not None:
                said.append((tuple(clip.key), judged.kept()))
                said = said if len(said) * said[0][1].bytes < _HELD else None
            if progress is not None:
                progress.add(len(clip.key))
        writer.keep(name, np.concatenate([*parts, _sparse(group, histogram)]))
        return said

    def _thresholds(self, writer: Writer, round_: int) -> dict[int, Tensor]:
        """The thresholds of every group, in the order of the clips, from what all processes surveyed."""
        counts = np.concatenate([writer.kept(name) for name in writer.names("survey-")])
        found: dict[int, Tensor] = {}
        before = None
        for mine in np.split(counts, np.flatnonzero(np.diff(counts["group"])) + 1):
            flat = np.bincount(mine["bin"], mine["count"], self.network.num_classes * BINS)
            before = self.thresholds(torch.from_numpy(flat).long().view(-1, BINS), before, round_)
            found[int(mine["group"][0])] = before
        return found

    def _write(
        self,
        writer: Writer,
        first: int,
        end: int,
        thresholds: dict[int, Tensor],
        round_: int,
        kept: list[Said] | None,
    ) -> None:
        done = writer.done(first)
        progress = (
            Progress(f"round {round_}: labelling", end - first, done) if is_first() and first + done < end else None
        )
        asked = ((tuple(clip.key), judged) for clip, judged in self._judged(range(first + done, end)))
        for keys, said in asked if kept is None or done else kept:
            judged = said.wide()
            doubts = judged.doubts
            mine = torch.stack([thresholds[_identity(self.group(key))] for key in keys]).to(doubts.device)
            labels = self.label(judged, mine)
            told = torch.where(labels == IGNORE, doubts.argmin(1), labels)
            writer.write(first, keys, labels, doubts.gather(1, told[:, None])[:, 0])
            if progress is not None:
                progress.add(len(labels))


_COUNT = np.dtype([("group", np.int64), ("bin", np.int32), ("count", np.uint32)])


def _identity(group: str) -> int:
    """A number that stands for a group's name."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=7).digest(), "little")


def _sparse(group: str, histogram: Tensor) -> NDArray[Any]:
    """The numbers of a histogram that are not 0, with their places."""
    flat = histogram.flatten().numpy()
    bins = np.flatnonzero(flat)
    rows = np.zeros(len(bins), _COUNT)
    rows["group"], rows["bin"], rows["count"] = _identity(group), bins, flat[bins]
    return rows


def doubts_of(logits: Tensor) -> Tensor:
    """One minus the probability of each class, float64 `[B,K,h,w]`, rounded to half precision, from logits.

    Near certainty, where the choice is made, half precision tells doubts apart and probabilities not at all.
    """
    return (1 - logits.double().softmax(1)).half().double()


def add_to(histogram: Tensor, doubts: Tensor) -> None:
    """Count the pixels of doubts `[B,K,h,w]` by their likeliest class and its doubt, in `histogram` `[K,BINS]`."""
    least, classes = doubts.min(1)
    bits = least.half().view(torch.int16).long()
    flat = (classes * BINS + bits).flatten().cpu()
    histogram += torch.from_numpy(np.bincount(flat.numpy(), minlength=histogram.numel())).view_as(histogram)


def doubt_of(bits: Tensor) -> Tensor:
    """The doubt float64 that a bin stands for."""
    return bits.to(torch.int16).view(torch.half).double()
