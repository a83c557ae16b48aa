"""What torch.compile sees of the autograd Functions: calls, taken into its graph as a whole.

Left to itself, Dynamo looks inside a Function and loses what makes it one. Under ``torch.func`` it differentiates the
forward pass with PyTorch's own rules instead (pytorch/pytorch#193279, #192985), it refuses ``vmap`` (#129845), and it
refuses a Function that has a ``jvp``; second derivatives came out wrong, and silently so. Taken as a whole, a Function
reaches AOTAutograd as it is, which runs it on fake tensors by the very rules of eager mode.

Importing this module loads Dynamo, which takes as long as PyTorch itself: so it is imported when something is compiled.
"""

from torch.compiler import allow_in_graph

from twolayer import autograd_streamed
from twolayer.autograd import Cost, Loss, Network

for function in (Network, Cost, Loss, autograd_streamed.logits, autograd_streamed.loss, autograd_streamed.hvp):
    allow_in_graph(function)
