"""The operations of a training step that no library does in one pass, each in a file of its own.

Each operation has three functions:

- ``name``: chooses one of the other two by the input's device and type.
- ``name_triton``: Triton kernels, forward and backward, for CUDA tensors in at most 32 bits.
- ``name_plain``: the same in differentiable PyTorch, for every device and type. It defines the
  numbers; tests compare the two.

Kernels compute in fp32 and store in the type of their output. All of them can be captured into a
CUDA graph: they read nothing back to the host.

Letters: B samples, S live tokens (their outputs are used), T tail tokens (only their keys and
values are used), R = S + T rows of a sample, N = B · R rows, F width, A attention heads, D width of
a head, E experts, K experts chosen for a token, H inner width of a feed-forward layer.
"""
