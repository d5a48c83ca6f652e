"""Methods that label the whole target split, then train on these labels, in rounds (CBST, CRST, IAST, VST).

A round begins at a step: the network of that moment predicts all training clips, thresholds are chosen over all of
them, labels are written to `pseudo/round<k>` of the run's folder, and the optimiser starts afresh. Labels are looked up
by the clips' names in the process that trains; loader processes read ahead and would serve those of the round before.
"""

import hashlib
import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpl.data.clip import BACKWARD, IGNORE, Batch, Clip, Wants
from stpl.data.pseudo_labels import PseudoLabels, finished, growing
from stpl.errors import ConfigError
from stpl.files import whole_file
from stpl.nn.accel import Accel
from stpl.nn.segmenter import grid_of
from stpl.progress import Progress
from stpl.rows import Rows
from stpl.training.base import Method, check_settings
from stpl.training.evaluation import check_output
from stpl.training.ranks import from_first, is_first, wait_for_all
from stpl.training.supervision import pseudo_label_loss

BINS = 15361
"""Numbers of a half-precision float in [0, 1]: its bits count them in rising order."""

_PLAIN = (bool, int, float, str)
_MEMORY = 2**30  # bytes of predictions that a process keeps from the survey for the labelling


class Predictions(NamedTuple):
    """Predictions of clips that are to be labelled.

    Attributes:
        doubts: one minus the probability of each class, float64 `[B,K,h,w]` in half precision (`doubts_of`).
        previous: the same of the previous frame, warped onto the current one.
        visible: bool `[B,h,w]`, which pixels the previous frame shows too.
    """

    doubts: Tensor
    previous: Tensor | None = None
    visible: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(tensor.nbytes for tensor in self if tensor is not None)


Histograms = Iterator[tuple[int, Tensor]]
"""Groups of clips by number, with their histograms: see `OfflinePseudoLabels.thresholds`."""

Labelled = tuple[tuple[str, ...], Predictions]
"""The names of a batch of clips, and their predictions."""


@dataclass
class _Stretch:
    """The clips of the split that one process labels in a round."""

    rows: Rows
    round: int
    clips: range
    processes: int

    @property
    def surveys(self) -> Path:
        """The folder of the histograms of all stretches."""
        return self.rows.partial / f"surveys-{self.processes}"

    def progress(self, action: str, done: int = 0) -> Progress | None:
        """What the first process shows on stderr; `None` in the others, or if there is nothing to do."""
        shown = is_first() and done < len(self.clips)
        return Progress(f"round {self.round}: {action}", len(self.clips), done) if shown else None


class OfflinePseudoLabels(Method):
    """Base of methods that label the whole split before they train on it; sub-classes choose the labelled pixels.

    Args:
        rounds: how often the split is labelled; rounds are equally long.
        labels: finished labels to train on instead, such as those of another run's last round; there is one round then.
    """

    labelling_wants = Wants(flows=(BACKWARD,))
    """What clips carry that are to be labelled."""

    soft = False
    """Whether pixels have probabilities as labels, too (`soften`)."""

    def __init__(self, *, rounds: int = 3, labels: Path | None = None, **shared: Any) -> None:
        check_settings(1, rounds=rounds)
        super().__init__(**shared)
        self.rounds, self.labels = 1 if labels is not None else rounds, labels
        self._round: int | None = None
        self._store: PseudoLabels | None = None

    def predictions(self, clip: Clip) -> Predictions:
        """Predictions of clips that are to be labelled, as evaluation makes them."""
        logits = self.evaluated.observe(clip).logits
        check_output(logits, clip)
        return Predictions(doubts_of(logits))

    def labelling_networks(self) -> list[Accel]:
        """The networks that make the predictions."""
        return [self.evaluated]

    def group(self, key: str) -> str:
        """Name of the clips that share thresholds with the clip `key`, and follow each other. By default all do."""
        return ""

    @abstractmethod
    def thresholds(self, histogram: Tensor, before: Tensor | None, round_: int) -> Tensor:
        """Thresholds float64 `[K]` that decide in a round, from 0, which pixels of a group of clips get a label.

        Args:
            histogram: int64 `[K,BINS]`, how many pixels are predicted as each class with each doubt (`doubt_of`).
            before: thresholds of the group before; `None` for the first.
            round_: number of the round.
        """

    def all_thresholds(self, groups: Callable[[], Histograms], round_: int) -> dict[int, Tensor]:
        """The thresholds of every group of clips, by its number, in a round; `groups` gives them in their order."""
        found: dict[int, Tensor] = {}
        before = None
        for group, histogram in groups():
            found[group] = before = self.thresholds(histogram, before, round_)
        return found

    @abstractmethod
    def label(self, predictions: Predictions, thresholds: Tensor) -> Tensor:
        """The labels int64 `[B,h,w]`, 255 = none, by thresholds float64 `[B,K]`."""

    def soften(self, predictions: Predictions, thresholds: Tensor) -> Tensor:
        """The soft labels `[B,K,h,w]` of a method that has any: the probabilities, if it makes no others of them."""
        return 1 - predictions.doubts

    def on_fit_start(self) -> None:
        """Refuse loaders that cannot serve the whole split in order; raises `ConfigError`."""
        super().on_fit_start()
        if not hasattr(self._data, "unlabelled_clips"):
            what = f"{type(self).__name__} labels the whole training split, which loaders cannot serve"
            raise ConfigError(what, where="datamodule", mend="give one of stpl.data.datamodule")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
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
        """Add the round's labels of the target's clips."""
        assert self._store is not None  # made before the step
        assert isinstance(batch.target.key, tuple)
        found = {"labels": self._store.of(batch.target.key)[0]}
        if self.soft:
            found["soft"] = self._store.soft(batch.target.key)
        return replace(batch, prepared={name: self.to_device(value) for name, value in found.items()})

    def self_training(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of logits `[B,K,h,w]` of the target with the round's labels."""
        return {"self_training": pseudo_label_loss(logits, batch.prepared["labels"])}

    def _labels_of(self, round_: int, begins: bool) -> PseudoLabels:
        if self.labels is not None:
            return self._given(self.labels)
        run = self.folder or Path(self.trainer.default_root_dir)
        folder = run / "pseudo" / f"round{round_}"
        if finished(folder) and (not begins or PseudoLabels(folder).about == self._about(round_)):
            return PseudoLabels(folder)
        if not begins:
            what = "the labels of this round are gone, and so are the weights that made them"
            raise ConfigError(what, where=folder, mend=f"delete {run} and run it again")
        return self._make(folder, round_)

    def _given(self, folder: Path) -> PseudoLabels:
        if not finished(folder):
            mend = "run the experiment that makes them, or check model.labels and --labels_from"
            raise ConfigError("there are no pseudo-labels here", where=folder, mend=mend)
        store = PseudoLabels(folder)
        clips, classes = self._data.reader("train", "target").name, list(self.options.space.classes)
        if (store.about["clips"], store.about["classes"]) != (clips, classes):
            what = f"these pseudo-labels are of {store.about['clips']}, not of {clips} with the network's classes"
            raise ConfigError(what, where=folder, mend="give labels of the same split, size and classes")
        if self.soft and not store.has_soft:
            what = f"these pseudo-labels are no soft ones, which {type(self).__name__} learns from"
            raise ConfigError(what, where=folder, mend="give those of a run of this method")
        return store

    def _about(self, round_: int) -> dict[str, Any]:
        """What the labels depend on: weights, method, data."""
        digest = hashlib.blake2b(digest_size=16)
        for network in self.labelling_networks():
            for name, value in network.state_dict().items():
                digest.update(name.encode())
                if isinstance(value, Tensor):
                    digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
                else:  # extra state
                    digest.update(repr(value).encode())
        return {
            "weights": digest.hexdigest(),
            "method": type(self).__name__,
            "settings": self._settings(),
            "batchnorm": asdict(self.batchnorm),
            "clips": self._data.reader("train", "target").name,
            "classes": list(self.options.space.classes),
            "round": round_,
        }

    def _settings(self) -> dict[str, Any]:
        """The method's own settings."""
        kinds = [kind for kind in type(self).__mro__ if issubclass(kind, Method)]
        common = {name for kind in (OfflinePseudoLabels, Method) for name in inspect.signature(kind).parameters}
        own = {name for kind in kinds for name in inspect.signature(kind).parameters} - common
        found = {name: getattr(self, name, None) for name in sorted(own)}
        return {name: value for name, value in found.items() if isinstance(value, _PLAIN)}

    def _make(self, folder: Path, round_: int) -> PseudoLabels:
        """Label all clips, each process its share, and wait for the others."""
        count, processes = len(self._data.reader("train", "target")), self.trainer.world_size
        clips = range(*(count * (self.global_rank + i) // processes for i in (0, 1)))
        about = self._about(round_)
        running = [buffer.clone() for buffer in self._statistics()]
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        if (kind := self.statistics_at(self.global_step + 1)) != "running":  # labels of the start, too
            self.renew_statistics(kind)
        try:
            grid = grid_of(next(self._predicted(range(1)))[1].doubts)
            soft = self.network.num_classes if self.soft else 0
            stretch = _Stretch(growing(folder, about, count, grid, soft), round_, clips, processes)
            from_first(stretch.rows.begin)
            kept = self._survey(stretch)
            wait_for_all()
            self._write(stretch, self._thresholds(stretch), kept)
            wait_for_all()
            from_first(stretch.rows.finish)
        finally:
            for module, mode in modes:
                module.training = mode
            for buffer, before in zip(self._statistics(), running, strict=True):
                buffer.copy_(before)
        return PseudoLabels(folder)

    @torch.no_grad()
    def _predicted(self, places: range) -> Iterator[Labelled]:
        """Training clips with their predictions, batch by batch."""
        for clip in self._data.unlabelled_clips(places, self.labelling_wants):
            moved = clip.to(self.device)
            with self.trainer.precision_plugin.val_step_context():
                yield tuple(clip.key), self.predictions(moved)

    def _survey(self, stretch: _Stretch) -> list[Labelled] | None:
        """Keep the histograms of a stretch of the split, of each group the numbers that are not 0.

        Gives the predictions, so that they need not be made again; `None` if they take too much memory.
        """
        path = stretch.surveys / f"{stretch.clips.start:09d}.npy"
        if path.is_file():
            return None
        kept: list[Labelled] | None = []
        progress = stretch.progress("surveying the clips")
        group, parts = "", [_sparse("", torch.zeros(0))]
        histogram = torch.zeros(self.network.num_classes, BINS, dtype=torch.int64)
        for keys, predictions in self._predicted(stretch.clips):
            for place, key in enumerate(keys):
                if self.group(key) != group:
                    parts.append(_sparse(group, histogram))
                    group, histogram = self.group(key), torch.zeros_like(histogram)
                add_to(histogram, predictions.doubts[place : place + 1])
            if kept is not None:
                kept.append((keys, _converted(predictions, torch.half, "cpu")))
                kept = kept if len(kept) * kept[0][1].bytes < _MEMORY else None
            if progress is not None:
                progress.add(len(keys))
        with whole_file(path) as file:
            np.save(file, np.concatenate([*parts, _sparse(group, histogram)]))
        return kept

    def _thresholds(self, stretch: _Stretch) -> dict[int, Tensor]:
        """The thresholds of every group, in the order of the clips, from what all processes surveyed."""
        counts = np.concatenate([np.load(path) for path in sorted(stretch.surveys.glob("*.npy"))])

        def groups() -> Histograms:
            for own in np.split(counts, np.flatnonzero(np.diff(counts["group"])) + 1):
                flat = np.bincount(own["bin"], own["count"], self.network.num_classes * BINS)
                yield int(own["group"][0]), torch.from_numpy(flat).long().view(-1, BINS)

        return self.all_thresholds(groups, stretch.round)

    def _write(self, stretch: _Stretch, thresholds: dict[int, Tensor], kept: list[Labelled] | None) -> None:
        written = stretch.rows.written()
        done = next((place for place, clip in enumerate(stretch.clips) if clip not in written), len(stretch.clips))
        if done < len(stretch.clips):
            done -= done % self._data.loading.eval_batch_size  # batches are those of an uncut run
        left = iter(stretch.clips[done:])
        progress = stretch.progress("labelling", done)
        batches: Iterable[Labelled] = kept if kept is not None and not done else self._predicted(stretch.clips[done:])
        for keys, found in batches:
            predictions = _converted(found, torch.double)
            doubts = predictions.doubts
            own = torch.stack([thresholds[_identity(self.group(key))] for key in keys]).to(doubts.device)
            labels = self.label(predictions, own)
            classes = torch.where(labels == IGNORE, doubts.argmin(1), labels)
            kinds = labels.byte().cpu().numpy(), doubts.gather(1, classes[:, None])[:, 0].half().cpu().numpy()
            soft = self.soften(predictions, own).half().cpu().numpy() if self.soft else labels
            for key, label, doubt, more, row in zip(keys, *kinds, soft, left, strict=False):
                stretch.rows.write(row, {"labels": label, "doubts": doubt, "soft": more}, key)
            if progress is not None:
                progress.add(len(labels))


def _converted(predictions: Predictions, dtype: torch.dtype, device: str | None = None) -> Predictions:
    """The same with doubts in another precision, of which half holds them exactly; on another device if given."""
    return Predictions._make(
        None if tensor is None else tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
        for tensor in predictions
    )


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

    Near certainty, where the choice is made, half precision distinguishes doubts, but no probabilities.
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


def confidence_at(histogram: Tensor, rank: Tensor) -> Tensor:
    """Confidence float64 `[K]` of each class's pixel at a rank `[K]`, counted from 1 at the surest one."""
    return 1 - doubt_of((histogram.cumsum(1) >= rank[:, None]).long().argmax(1))


def own_threshold(doubts: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest class of each pixel, its confidence and its class's threshold, all `[B,h,w]`.

    They come from doubts `[B,K,h,w]` and thresholds `[B,K]`.
    """
    least, classes = doubts.min(1)
    return classes, 1 - least, thresholds.gather(1, classes.flatten(1)).view_as(least)
