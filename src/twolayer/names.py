"""The names that options take, as type checkers and editors know them: a misspelt one is an error before it runs."""

from typing import Literal

ActivationName = Literal["sigmoid", "tanh", "relu", "leaky_relu"]
TaskName = Literal["binary", "multilabel", "multiclass", "regression"]
InitName = Literal["course", "zeros", "xavier", "he"]
BackwardName = Literal["manual", "streamed", "autograd"]
ReductionName = Literal["mean", "sum", "none"]
KernelName = Literal["torch", "cpu", "triton_narrow", "triton_wide", "triton_chunked"]
DescentName = Literal["steps", "cpu_descent", "triton_descent"]
