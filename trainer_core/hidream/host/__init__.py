"""Frozen weights that the host holds, because the card has no room for them."""
