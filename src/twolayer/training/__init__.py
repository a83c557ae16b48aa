"""Training with Lightning: :class:`LitTwoLayer`, and :class:`StepsInBlocks` for a LightningModule of one's own."""

from twolayer.training.module import LitTwoLayer
from twolayer.training.steps import StepsInBlocks

__all__ = ["LitTwoLayer", "StepsInBlocks"]
