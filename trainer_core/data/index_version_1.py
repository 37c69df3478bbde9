"""Reads the data index of earlier versions, which named rows of shards in place of entries."""

from collections.abc import Mapping
from typing import Any

from trainer_core.data.entry_digest import entry_digest


def from_version_1(document: Mapping[str, Any]) -> dict[str, Any]:
    """The index as a document of version 2.

    Raises ValueError for what is no index of version 1.
    """
    try:
        return _converted(document)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"not a data index of version 1: {error!r}") from error


def _converted(document: Mapping[str, Any]) -> dict[str, Any]:
    encodings: list[dict[str, Any]] = []
    entries: dict[str, dict[str, Any]] = {}
    names: list[list[str]] = []  # of each shard, the digests of its rows
    for shard in document["shards"]:
        spec = shard["spec"]
        encoding = {"kind": spec["kind"], "encoder": spec["encoder"]}
        if encoding not in encodings:
            encodings.append(encoding)
        names.append([])
        for content in spec["entries"]:
            digest = entry_digest(spec["kind"], spec["encoder"], content)
            names[-1].append(digest)
            position = encodings.index(encoding)
            entries.setdefault(digest, {"digest": digest, "encoding": position, "content": content})
    positions = {digest: position for position, digest in enumerate(entries)}

    def entry_at(row: Mapping[str, int] | None) -> int | None:
        return None if row is None else positions[names[row["shard"]][row["row"]]]

    samples = [
        {
            **sample,
            "latents": entry_at(sample["latents"]),
            "texts": [entry_at(row) for row in sample["texts"]],
            "mask": entry_at(sample.get("mask")),
        }
        for sample in document["samples"]
    ]
    return {
        "version": 2,
        "samples": samples,
        "encodings": encodings,
        "entries": list(entries.values()),
        "prompts": {text: entry_at(row) for text, row in document["prompts"].items()},
        "warnings": document.get("warnings", []),
    }
