"""Data indexes that earlier versions wrote, in which shards had rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer_core.data.index import DataIndex

GOLDEN = sorted((Path(__file__).resolve().parents[1] / "golden").glob("*/*/job.json"))


@pytest.mark.parametrize("job", GOLDEN, ids=lambda path: path.parent.name)
def test_an_index_of_version_1_becomes_one_of_entries(job: Path) -> None:
    """Each row is found again under the digest that this version gives the same content."""
    document = json.loads(job.read_text())["index"]

    index = DataIndex.model_validate_json(json.dumps(document))

    assert index.version == 2
    assert DataIndex.model_validate(index.model_dump(mode="json")) == index

    def row(place: dict[str, int]) -> dict[str, Any]:
        spec = document["shards"][place["shard"]]["spec"]
        return {**spec["entries"][place["row"]], "kind": spec["kind"], "encoder": spec["encoder"]}

    def found(entry: int) -> dict[str, Any]:
        encoding = index.encodings[index.entries[entry].encoding]
        assert index.entries[entry].digest == encoding.digest_of(index.entries[entry].content)
        return {
            **index.entries[entry].content.model_dump(mode="json"),
            **encoding.model_dump(mode="json"),
        }

    for sample, old in zip(index.samples, document["samples"], strict=True):
        assert found(sample.latents) == row(old["latents"])
        assert [found(text) for text in sample.texts] == [row(text) for text in old["texts"]]
        assert sample.mask is None
        kept = {"backend", "path", "held_out", "width_px", "height_px", "repeats"}
        assert sample.model_dump(include=kept) == {name: old[name] for name in kept}
    prompts = {text: row(place) for text, place in document["prompts"].items()}
    assert {text: found(entry) for text, entry in index.prompts.items()} == prompts
    rows = sum(len(shard["spec"]["entries"]) for shard in document["shards"])
    assert len(index.entries) == rows


def test_an_index_of_version_1_with_masks_and_shared_rows() -> None:
    sides = ("resize_w", "resize_h", "width_px", "height_px")
    geometry = {**dict.fromkeys(sides, 64), "crop_x": 0, "crop_y": 0}
    picture = {"path": "a.png", "sha256": "a" * 64, "geometry": geometry}
    mask = {"path": "a_mask.png", "sha256": "b" * 64, "geometry": geometry}
    specs = [
        ("latents", {"compute": "fp32"}, [picture, {**picture, "path": "twin.png"}]),
        ("masks", {"mask_kind": "mask"}, [mask]),
        ("text", {"compute": "bf16"}, [{"text": "a"}, {"text": "b"}]),
        ("text", {"compute": "bf16"}, [{"text": "c"}]),
    ]
    sample = {
        "backend": "a",
        "held_out": False,
        "width_px": 64,
        "height_px": 64,
        "repeats": 0,
        "texts": [{"shard": 2, "row": 1}, {"shard": 3, "row": 0}],
        "mask": {"shard": 1, "row": 0},
    }
    document: dict[str, Any] = {
        "version": 1,
        "samples": [
            {**sample, "path": f"{row}.png", "latents": {"shard": 0, "row": row}} for row in (0, 1)
        ],
        "shards": [
            {
                "digest": "",
                "kind": kind,
                "spec": {"version": 1, "kind": kind, "encoder": encoder, "entries": entries},
            }
            for kind, encoder, entries in specs
        ],
        "prompts": {"a": {"shard": 2, "row": 0}},
    }

    index = DataIndex.model_validate(document)

    one, other = index.samples
    assert one.latents == other.latents
    assert one.mask is not None
    assert index.kind_of(one.mask) == "masks"
    assert index.captions_of(one) == ("b", "c")
    assert len(index.entries) == 5
    assert len(index.encodings) == 3
    document["samples"][0]["latents"] = {"shard": 0, "row": 2}
    with pytest.raises(ValueError, match="not a data index of version 1"):
        DataIndex.model_validate(document)
