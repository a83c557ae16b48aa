"""Data sets that need no download, each a LightningDataModule: in Python, or by its name in a YAML file."""

from twolayer.extras import missing

try:
    from twolayer.data.bundled import BreastCancer, Diabetes, Digits
    from twolayer.data.planar import Blobs, Circles, Flower, GaussianQuantiles, Moons, flower
    from twolayer.data.streamed import StreamedTable
    from twolayer.data.table import Table
    from twolayer.data.tabular import TabularDataModule
except ModuleNotFoundError as error:
    raise missing(error) from None

__all__ = [
    "Blobs",
    "BreastCancer",
    "Circles",
    "Diabetes",
    "Digits",
    "Flower",
    "GaussianQuantiles",
    "Moons",
    "StreamedTable",
    "Table",
    "TabularDataModule",
    "flower",
]
