"""`stpl weights convert`: a checkpoint of another program, made one of ours."""

from __future__ import annotations

from pathlib import Path

from stpl.commands.weights_inspect import Layout


def weights_convert(
    checkpoint: Path,
    *,
    out: Path,
    layout: Layout = "auto",
    label_space: str = "viper15",
    backbone_only: bool = False,
    key: str | None = None,
) -> None:
    """Make a foreign checkpoint one of ours, for `--model.checkpoint`; it carries the description of its network.

    Args:
        checkpoint: the foreign file.
        out: the checkpoint to write; it must not exist.
        layout: the file's layout, where its keys leave a choice.
        label_space: the classes that it predicts, in their order.
        backbone_only: leave its classifiers out, for example because they are for other classes.
        key: which state_dict, where the file holds several.
    """
    from stpl.nn.convert import convert, understand

    holds, settings = convert(
        understand(checkpoint, layout, key), checkpoint, out, label_space, backbone_only=backbone_only
    )
    print(f"wrote {out}: {'the whole network' if holds == 'network' else 'only the backbone'}, for")
    print("  " + " ".join(f"--network.{name}={value}".replace(" ", "") for name, value in settings.items()))
