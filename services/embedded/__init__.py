"""The whole service on one machine: its servers and processes as supervised children."""
