"""From a table to what a network takes, and back to the names of its classes; PyTorch alone is needed."""
