"""Figure 6: pixels of a few classes laid out in the plane so that near in feature space is near on paper.

Reads what a run leaves in `features.npz`. scikit-learn is imported when the first plane is drawn, since only the extra
`stpl[report]` brings it.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from stpl.errors import StplError

FIGURE_CLASSES = ("road", "light", "car", "bicycle")
"""The classes of the paper's Figure 6."""

_COMPONENTS = 50  # principal components that t-SNE sees: van der Maaten & Hinton 2008, §4.2


def plane(features: NDArray[np.floating[Any]], seed: int = 0, perplexity: float = 30.0) -> NDArray[np.float32]:
    """t-SNE of features `[N,D]` (van der Maaten & Hinton, JMLR 2008), begun at their first two principal components.

    The same features and seed give the same plane on the same machine: all runs in one thread, because the order in
    which threads add up their forces is left to chance. The perplexity is lowered for few points.

    Returns:
        Positions float32 `[N,2]`; their scale and direction mean nothing. Fewer than four points get a line.

    Raises:
        StplError: if scikit-learn is not installed.
    """
    if len(features) < 4:
        return np.stack([np.arange(len(features)), np.zeros(len(features))], axis=1).astype(np.float32)
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # scikit-learn brings it
    except ImportError as error:
        raise StplError(
            "the figure of the feature space needs scikit-learn", mend="pip install 'stpl[report]'"
        ) from error
    points = features.astype(np.float64)
    with threadpool_limits(limits=1):
        components = min(_COMPONENTS, len(points), points.shape[1])
        points = PCA(components, random_state=seed).fit_transform(points)
        layout = TSNE(perplexity=min(perplexity, (len(points) - 1) / 3), init="pca", random_state=seed)
        return cast(NDArray[np.float32], layout.fit_transform(points).astype(np.float32))
