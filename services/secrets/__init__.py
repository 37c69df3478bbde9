"""Secrets of tenants: one process seals them with a public key, another opens them."""
