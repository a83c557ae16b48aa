"""Who computes a pass: plain operators, operators on chunks, programs for one kind of processor; and who decides."""

KERNELS = ("torch", "cpu", "triton_narrow", "triton_wide", "triton_chunked")
"""What can be asked for by its name, in the order in which it is tried; ``"torch"`` where no other runs."""
