"""Addresses, connections and downloads of strangers. Imports no torch."""
