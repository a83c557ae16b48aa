"""The course's sets of points in the plane, with two classes or more."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

from twolayer.data import checks
from twolayer.data.tabular import TabularDataModule

Points = tuple[NDArray[np.float64], NDArray[np.int64]]


def flower() -> Points:
    """The flower of the course: 400 points, 200 of each class in order, on petals that no straight line parts.

    Returns:
        ``X``, float64 ``(400, 2)``, and ``Y``, ``(400,)`` of 0 and 1; always the same points.

    >>> X, Y = flower()
    >>> X.shape, int(Y.sum())
    ((400, 2), 200)
    """
    random = np.random.RandomState(1)
    points, labels = [], []
    for j in range(2):
        n1, n2 = random.randn(200), random.randn(200)
        t = np.linspace(3.12 * j, 3.12 * (j + 1), 200) + 0.2 * n1
        r = 4 * np.sin(4 * t) + 0.2 * n2
        points.append(np.column_stack([r * np.sin(t), r * np.cos(t)]))
        labels.append(np.full(200, j))
    return np.concatenate(points), np.concatenate(labels)


class Flower(TabularDataModule):
    """The flower of the course, see :func:`flower`."""

    task = "binary"

    def load(self) -> Points:
        return flower()


class Circles(TabularDataModule):
    """A circle within a circle.

    Args:
        n_samples: points in all.
        noise: standard deviation of the normal noise on each coordinate.
        factor: radius of the inner circle; the outer one's is 1.
        kwargs: as for :class:`TabularDataModule`; ``seed`` draws the points, too.

    Raises:
        ValueError, TypeError: an option does not fit; the message names it.
    """

    task = "binary"

    def __init__(self, n_samples: int = 400, noise: float = 0.1, factor: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        checks.at_least("n_samples", n_samples, 2)
        checks.at_least("noise", noise, 0)
        checks.option("factor", factor, 0 <= factor < 1, "in [0, 1)")
        self.n_samples, self.noise, self.factor = n_samples, noise, factor

    def load(self) -> Points:
        return datasets.make_circles(self.n_samples, noise=self.noise, factor=self.factor, random_state=self.seed)


class Moons(TabularDataModule):
    """Two half moons, one in the other's arms.

    Args:
        n_samples: points in all.
        noise: standard deviation of the normal noise on each coordinate.
        kwargs: as for :class:`TabularDataModule`; ``seed`` draws the points, too.

    Raises:
        ValueError, TypeError: an option does not fit; the message names it.
    """

    task = "binary"

    def __init__(self, n_samples: int = 400, noise: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        checks.at_least("n_samples", n_samples, 2)
        checks.at_least("noise", noise, 0)
        self.n_samples, self.noise = n_samples, noise

    def load(self) -> Points:
        return datasets.make_moons(self.n_samples, noise=self.noise, random_state=self.seed)


class Blobs(TabularDataModule):
    """Round clouds of points, one for each class.

    Args:
        n_samples: points in all.
        centers: clouds, and so classes.
        cluster_std: standard deviation of each cloud.
        kwargs: as for :class:`TabularDataModule`; ``seed`` draws the points, too.

    Raises:
        ValueError, TypeError: an option does not fit; the message names it.
    """

    task = "multiclass"

    def __init__(self, n_samples: int = 400, centers: int = 4, cluster_std: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        checks.at_least("centers", centers, 2)
        checks.at_least("cluster_std", cluster_std, 0)
        checks.option("centers", centers, centers <= n_samples, f"at most n_samples, {n_samples}")
        self.n_samples, self.centers, self.cluster_std = n_samples, centers, cluster_std

    def load(self) -> Points:
        return datasets.make_blobs(
            self.n_samples, centers=self.centers, cluster_std=self.cluster_std, random_state=self.seed
        )


class GaussianQuantiles(TabularDataModule):
    """One normal cloud, cut into rings of equal share, a class each.

    Args:
        n_samples: points in all.
        n_classes: rings.
        kwargs: as for :class:`TabularDataModule`; ``seed`` draws the points, too.

    Raises:
        ValueError, TypeError: an option does not fit; the message names it.
    """

    task = "multiclass"

    def __init__(self, n_samples: int = 400, n_classes: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        checks.at_least("n_classes", n_classes, 2)
        checks.option("n_classes", n_classes, n_classes <= n_samples, f"at most n_samples, {n_samples}")
        self.n_samples, self.n_classes = n_samples, n_classes

    def load(self) -> Points:
        return datasets.make_gaussian_quantiles(
            n_samples=self.n_samples, n_features=2, n_classes=self.n_classes, random_state=self.seed
        )
