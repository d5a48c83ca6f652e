"""LightningDataModules that serve video clips.

A data module holds two domains: `source` (labelled) and `target` (unlabelled video of the new camera, with labels for
evaluation only). What a training clip carries is decided by the method alone (`Method.wants`): unless it wants labels,
no label file of the training split is ever opened, and unless it wants source clips (`Method.source_wants`), the source
is never opened at all.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from stpl.data import steps
from stpl.data.augment import CrossFrameAugmentation
from stpl.data.clip import BACKWARD, Batch, Clip, ClipReader, Wants, collate, collate_streams, stream_seed
from stpl.data.flow.estimators import estimator_class
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.label_space import VIPER_15, label_space
from stpl.data.loading import Loader, Loading, StepLoader, begin_process, check_shared_memory
from stpl.data.sequence import SequenceClips, find_flow, open_cache
from stpl.data.sequence_set import open_set
from stpl.data.sets import data_set
from stpl.data.streets import StreetsOptions, open_split
from stpl.data.streets.reader import StreetsClips
from stpl.data.videos.video_clips import Spread, open_footage
from stpl.errors import ConfigError, check_range

Domain = Literal["source", "target"]
Split = Literal["train", "val"]
_RENEWAL_SEED = 20160312  # of no run: statistics are renewed from the same clips whatever the run's seed


class ClipDataModule(LightningDataModule, ABC):
    """Base: sub-classes say how to open a split, everything else is written here.

    Sub-classes pass these arguments on as `**shared`.

    Args:
        domain: the domain that is trained and evaluated on.
        loading: batch sizes and workers.
        augmentation: cross-frame augmentation, for methods that want augmented views.
        sampling_seed: decides the order of clips and every augmentation; the command line sets it to the run's seed.
        class_statistics: folder where the classes' pixels of source labels are kept, for rare-class sampling.
        flow_estimator: dis (OpenCV; on the CPU), raft or raft_small (torchvision), or package.module.Class of your own:
            see `stpl.data.flow.estimators`.
    """

    space_name: str | None = None
    """Name of the label space of the labels it serves; `None` where there are none."""

    evaluated = "cityscapes"
    """The data set whose label ids written predictions hold."""

    labelled = True
    """Whether `val` has labels to evaluate on. Without, only the label-free selection score is computed."""

    def __init__(
        self,
        domain: Domain = "target",
        loading: Loading | None = None,
        augmentation: CrossFrameAugmentation | None = None,
        sampling_seed: int = 0,
        class_statistics: Path = Path("data/class_statistics"),
        flow_estimator: str = "dis",
    ) -> None:
        super().__init__()
        estimator_class(flow_estimator)
        self.domain: Domain = domain
        self.loading, self.augmentation = loading or Loading(), augmentation or CrossFrameAugmentation()
        self.sampling_seed, self.class_statistics, self.flow_estimator = sampling_seed, class_statistics, flow_estimator
        self._readers: dict[tuple[Domain, Split], ClipReader] = {}
        self._renewal: dict[tuple[Domain, int, bool], list[Clip]] = {}

    @abstractmethod
    def open(self, domain: Domain, split: Split) -> ClipReader:
        """The reader of one split; raises `DataError` if it is not there."""

    def reader(self, split: Split, domain: Domain | None = None) -> ClipReader:
        """The reader of a split, opened once; of this run's domain if none is named."""
        key = (domain or self.domain, split)
        if key not in self._readers:
            self._readers[key] = self.open(*key)
        return self._readers[key]

    def setup(self, stage: str) -> None:
        """Make the loaders of the stage once, so that their errors come from here.

        Lightning changes `DataLoader` while it calls the hooks below, and an error in them would leave it changed.
        """
        if stage == "fit":
            self.train_dataloader()
        if stage != "fit" or self._trainer().limit_val_batches:
            self.val_dataloader()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the remaining steps of the run: starts at the trainer's global step."""
        wanted = self._wanted()
        if self._trainer().max_steps < 0:
            raise ConfigError("a run is counted in steps", where="trainer.max_steps", mend="set it")
        clips, samplers = {}, {}
        for stream, wants in wanted.items():
            reader = self.reader("train", "source" if stream == "source" else None)
            reader.require(wants)
            if self.loading.augment_on == "device":
                wants = replace(wants, augmented=False)  # the method makes the view
            clips[stream] = steps.TrainingClips(
                reader, wants, self.augmentation, stream_seed(self.sampling_seed, stream)
            )
            samplers[stream] = self._sampler(stream, reader)
        sampler = steps.StreamSampler(samplers)
        return self._loader(StepLoader, steps.StreamClips(clips), batch_sampler=sampler, collate_fn=collate_streams)

    def _wanted(self) -> dict[str, Wants]:
        """What the method wants of each stream; raises `ConfigError` if it wants the source and trains on it anyway."""
        method: Any = self._trainer().lightning_module
        if method.source_wants is not None and self.domain == "source":
            mend = "leave it out: the run's domain is the target"
            raise ConfigError(f"{type(method).__name__} adapts from source to target", where="data.domain", mend=mend)
        wanted: dict[str, Wants] = method.streams
        return wanted

    def _sampler(self, stream: str, reader: ClipReader) -> steps.StepSampler:
        trainer, rare = self._trainer(), self.loading.rare_classes
        options = {
            "seed": stream_seed(self.sampling_seed, stream),
            "start": trainer.global_step,
            "steps": trainer.max_steps,
            "batch_size": self.loading.clips_of(stream),
            "rank": trainer.global_rank,
            "world_size": trainer.world_size,
        }
        if stream == "before":
            return steps.StepBefore(len(reader), **options)
        if stream == "target" or rare is None:
            return steps.StepSampler(len(reader), **options)
        counts = steps.class_pixels(reader, label_space(str(self.space_name)).num_classes, self.class_statistics)
        return steps.RareClassSampler(counts, reader.label(0).numel(), rare, **options)

    def val_dataloader(self) -> DataLoader[Clip]:
        """The evaluation clips in order, or this process's share of them."""
        wants = Wants(flows=(BACKWARD,), labels=(0,) if self.labelled else (), visible=(0,))
        reader, size = self.reader("val"), self.loading.eval_batch_size
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        share = steps.evaluation_share(len(reader), batch_size=size, rank=rank, world_size=world_size)
        return self._in_order(reader, wants, share)

    def unlabelled_clips(self, places: range, wants: Wants) -> DataLoader[Clip]:
        """Some training clips of the target as they are, in order: to be labelled by a network."""
        reader = self.reader("train", "target")
        reader.require(wants)
        return self._in_order(reader, wants, places)

    def _in_order(self, reader: ClipReader, wants: Wants, places: Iterable[int]) -> DataLoader[Clip]:
        clips, size = steps.EvaluationClips(reader, wants), self.loading.eval_batch_size
        return self._loader(DataLoader, clips, batch_size=size, sampler=places, collate_fn=collate)

    def _loader(self, kind: type[Loader], clips: Dataset[Any], **options: Any) -> Loader:
        """A loader whose batches for a GPU lie in page-locked memory, which is copied while the host goes on."""
        pins = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        here = self.trainer.num_devices if self.trainer else 1  # processes of this machine that train
        workers = self.loading.workers(here)
        loader = kind(clips, num_workers=workers, worker_init_fn=begin_process, pin_memory=pins, **options)
        check_shared_memory(loader, here)
        return loader

    def renewal_clips(self, batches: int, *, augmented: bool) -> list[Clip]:
        """Batches of training clips to renew statistics from: the same for any method, seed and process."""
        key = (self.domain, batches, augmented)
        if key not in self._renewal:
            reader, size = self.reader("train"), self.loading.batch_size
            sampler = steps.StepSampler(len(reader), seed=_RENEWAL_SEED, start=0, steps=batches, batch_size=size)
            clips = steps.TrainingClips(reader, Wants(augmented=augmented), self.augmentation, _RENEWAL_SEED)
            self._renewal[key] = [collate([clips[ticket] for ticket in tickets]) for tickets in sampler]
        return self._renewal[key]

    def _trainer(self) -> Any:
        if self.trainer is None:
            raise RuntimeError("a data module serves loaders only when attached to a Trainer")
        return self.trainer


class StreetsData(ClipDataModule):
    """The embedded benchmark: source = `studio`, target = `camera`; drawn once, then read from a memory map.

    Its labels are those of viper15.

    Args:
        root: folder of the drawn splits.
        options: what is drawn.
        flow: "estimated" (on the frames the network sees, cached) or "exact" (the renderer's own).
        evaluate_every: from one frame of a drive that is evaluated on to the next; 5 as Cityscapes-VPS is labelled.
        draw_workers: processes that draw; all cores if not given.
        shared: see `ClipDataModule`.
    """

    space_name = VIPER_15.name

    def __init__(
        self,
        root: Path = Path("data/streets"),
        options: StreetsOptions | None = None,
        flow: Literal["estimated", "exact"] = "estimated",
        evaluate_every: int = 1,
        draw_workers: int | None = None,
        **shared: Any,  # jsonargparse finds its names, types and defaults in the base's constructor
    ) -> None:
        super().__init__(**shared)
        check_range("data.draw_workers", 1 if draw_workers is None else draw_workers, 1)
        check_range("data.evaluate_every", evaluate_every, 1)
        self.root, self.options, self.flow, self.draw_workers = root, options or StreetsOptions(), flow, draw_workers
        self.evaluate_every = evaluate_every

    def open(self, domain: Domain, split: Split) -> ClipReader:
        """`studio` or `camera`, drawn if it is not there yet."""
        name = "studio" if domain == "source" else "camera"
        drawn = open_split(self.root, name, split, self.options, self.draw_workers)
        every = self.evaluate_every if split == "val" else 1
        return StreetsClips(drawn, flow=self.flow, estimator=self.flow_estimator, every=every)


class RecordedData(ClipDataModule):
    """From one recorded data set, with labels, to another one: any source goes with any target.

    The source domain trains on the source's labelled video; both are evaluated on the target's validation split, as in
    the DA-VSN/TPS lineage. Training labels come at the size of the frames, labels for evaluation as they are stored.

    Args:
        root: folder that holds the data sets' own folders.
        source: name of a data set (`stpl.data.sets`), or of a module of your own that declares one.
        target: likewise.
        label_space: classes of the labels; the source's usual ones if not given.
        target_size: height and width of the target's frames; its usual ones if not given.
        source_size: likewise of the source's.
        flow: "estimated" (at training size, kept in `<root>/<set>/flow_<estimator>`) or "files" (of published work,
            e.g. in `<root>/Estimated_optical_flow_…` or where TPS keeps them).
        cache: read frames and estimated flow from the memory map that `stpl data cache` makes; made if absent.
        source_list: frame list of the source.
        target_train_list: frame list of the target's train split, for a copy without labels of it.
        target_val_list: frame list of the target's val split.
        shared: see `ClipDataModule`.
    """

    def __init__(
        self,
        root: Path = Path("data"),
        source: str = "viper",
        target: str = "cityscapes",
        label_space: str | None = None,
        target_size: tuple[int, int] | None = None,
        source_size: tuple[int, int] | None = None,
        flow: Literal["estimated", "files"] = "estimated",
        cache: bool = False,
        source_list: Path | None = None,
        target_train_list: Path | None = None,
        target_val_list: Path | None = None,
        **shared: Any,  # jsonargparse finds its names, types and defaults in the base's constructor
    ) -> None:
        super().__init__(**shared)
        self.root, self.flow, self.cache = root, flow, cache
        self.sets, self.evaluated = {"source": source, "target": target}, target
        self.space_name = label_space or data_set(source).space
        self._sizes = {"source": source_size, "target": target_size}
        self._lists = {"source": {"train": source_list}, "target": {"train": target_train_list, "val": target_val_list}}

    def open(self, domain: Domain, split: Split) -> ClipReader:
        """The source's train split, or a split of the target."""
        part: Domain = "source" if (domain, split) == ("source", "train") else "target"
        files = open_set(self.root, self.sets[part], split, frame_list=self._lists[part][split], size=self._sizes[part])
        estimator = self.flow_estimator if self.flow == "estimated" else None
        return SequenceClips(
            files,
            label_space(str(self.space_name)),
            flow=FlowCache(files.folder, self.flow_estimator),
            flow_folder=find_flow(files) if estimator is None else None,
            label_size="input" if split == "train" else "native",
            cache=open_cache(files, estimator) if self.cache else None,
        )


class VideoData(ClipDataModule):
    """Video files and folders of frames as an unlabelled target; no label is compared with.

    Args:
        path: the video file, or a folder of images; or several, of which no clip pairs frames.
        size: height and width the frames are resized to; the video's own if not given, and then that of all of them.
        stride: take every stride-th frame.
        rate: in place of a stride: frames a second to take, by the time at which each is shown.
        cuts: look for changes of the scene, which no clip crosses.
        evaluation_clips: most clips that are evaluated, in short runs that are spread evenly.
        flow_cache: folder of estimated flow, and of what is known of the videos.
        shared: see `ClipDataModule`; its domain can only be "target".
    """

    labelled = False

    def __init__(
        self,
        path: list[Path] | Path,  # in this order, in which the parser tries them: a list is no path
        size: tuple[int, int] | None = None,
        stride: int = 1,
        rate: float | None = None,
        cuts: bool = True,
        evaluation_clips: int = 200,
        flow_cache: Path = Path("data/flow"),
        **shared: Any,  # jsonargparse finds its names, types and defaults in the base's constructor
    ) -> None:
        super().__init__(**shared)
        check_range("data.evaluation_clips", evaluation_clips, 1)
        self.paths = path if isinstance(path, list) else [path]
        self.size, self.evaluation_clips = size, evaluation_clips
        self.flow_cache = FlowCache(flow_cache, self.flow_estimator)
        self.pace = {"stride": stride, "rate": rate, "cuts": cuts}

    def open(self, domain: Domain, split: Split) -> ClipReader:
        """All clips, or those to evaluate; raises `ConfigError` for its source domain, which it lacks."""
        if domain == "source":
            raise ConfigError("a video comes without source data", where="model", mend="choose a source-free method")
        if split == "val":
            return Spread(self.reader("train"), self.evaluation_clips)
        return open_footage(self.paths, self.size, flow=self.flow_cache, **self.pace)
