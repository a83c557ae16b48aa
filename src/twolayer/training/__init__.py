"""Training with Lightning: :class:`LitTwoLayer`, and :class:`StepsInBlocks` for a LightningModule of one's own."""

from twolayer.extras import missing

try:
    from twolayer.training.module import LitTwoLayer
    from twolayer.training.steps import StepsInBlocks
except ModuleNotFoundError as error:
    raise missing(error) from None

__all__ = ["LitTwoLayer", "StepsInBlocks"]
