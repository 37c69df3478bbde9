"""Pictures that are fetched before a run: a source becomes a folder of files. Imports no torch."""
