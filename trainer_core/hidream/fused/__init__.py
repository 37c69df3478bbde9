"""HiDream's blocks with hand-written gradients, for a frozen base with or without an adapter.

``trainer_core.hidream.plain_blocks`` computes the same with ordinary modules and autograd.
"""
