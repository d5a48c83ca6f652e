"""`stpl data check`: looks once at every file of a split."""

from __future__ import annotations

from pathlib import Path

from stpl.option_types import Natural, Size


def data_check(
    dataset: str,
    *,
    root: Path = Path("data"),
    split: str = "train",
    flow: str = "auto",
    sample: Natural = 20,
    size: Size | None = None,
    label_space: str | None = None,
    frame_list: Path | None = None,
    json: Path | None = None,
    workers: Natural = 0,
) -> None:
    """Check every frame, label and flow file of one split, and print a report.

    Whether the flow has the right direction, sign, scale and order of axes shows in the frames themselves: it must
    take the earlier one of a pair onto the later one, better than the flow reversed, swapped or scaled does. What is
    wrong for certain is a problem (exit code 2); what only looks wrong is a warning.

    Args:
        dataset: name of the data set, or of a module of your own that declares one; a wrong name lists all.
        root: folder that holds the data sets' own folders.
        split: one of the data set's splits, e.g. train or val.
        flow: folder of flow files; auto for the lineage's, where there is one; none to leave flow out.
        sample: pairs of frames by which the flow is judged.
        size: height and width of training, at which the flow is judged; the data set's usual one if not given.
        label_space: classes that labels are counted in; the data set's usual ones if not given.
        frame_list: text file with the current frames, as the lineage has them.
        json: file to write the report to, too.
        workers: threads; 0 for one a core.
    """
    from stpl.data import label_space as spaces
    from stpl.data.check import flow_folder, inspect
    from stpl.data.sequence_set import open_set

    files = open_set(root, dataset, split, frame_list=frame_list, size=size)
    space = spaces.label_space(label_space or files.data_set.space)
    report = inspect(files, space, flow_folder(files, flow), sample, workers)
    print(report.text())
    if json is not None:
        report.write(json)
    report.refuse_problems()
