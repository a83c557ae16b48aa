"""What works on ``nn.Sequential`` works on ``TwoLayerNet``: one file for each group of rows of ``docs/contract.md``."""
