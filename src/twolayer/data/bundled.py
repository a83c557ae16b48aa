"""Three real data sets that scikit-learn ships."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

from twolayer.data.tabular import TabularDataModule

Arrays = tuple[NDArray[np.float64], NDArray[Any]]


class BreastCancer(TabularDataModule):
    """Wisconsin breast cancer: 569 tumours, 30 measurements each; 0 malignant, 1 benign."""

    task = "binary"

    def load(self) -> Arrays:
        return datasets.load_breast_cancer(return_X_y=True)


class Digits(TabularDataModule):
    """Handwritten digits: 1,797 images of 8 × 8 pixels with values from 0 to 16; 10 classes."""

    task = "multiclass"

    def load(self) -> Arrays:
        return datasets.load_digits(return_X_y=True)


class Diabetes(TabularDataModule):
    """Progression of diabetes: 442 patients, 10 measurements each; the target runs from 25 to 346."""

    task = "regression"

    def load(self) -> Arrays:
        return datasets.load_diabetes(return_X_y=True, scaled=False)
