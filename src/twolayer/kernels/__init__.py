"""The pass of :mod:`twolayer.streaming`, fused: each kernel is an own program for one kind of processor."""
