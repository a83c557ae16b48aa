"""What torch.compile sees of the autograd Functions: calls, taken into its graph as a whole.

Left to itself, Dynamo looks inside a Function and loses what makes it one. Under ``torch.func`` it differentiates the
forward pass with PyTorch's own rules instead (pytorch/pytorch#193279, #192985), it refuses ``vmap`` (#129845), and it
refuses a Function that has a ``jvp``; second derivatives came out wrong, and silently so. Taken as a whole, a Function
reaches AOTAutograd as it is, which runs it on fake tensors by the very rules of eager mode.

Importing this module loads Dynamo, which takes as long as PyTorch itself: so it is imported when something is compiled,
after the modes, which have registered what is theirs.
"""

from torch.compiler import allow_in_graph

from twolayer.backward.function import WHOLE

for function in WHOLE:
    allow_in_graph(function)
