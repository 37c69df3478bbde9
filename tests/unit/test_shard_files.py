"""Shards: what a builder packs, and the one file in which each entry is a range of its own."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue
from safetensors.torch import load_file, save_file

from trainer_core.data.buckets import Geometry
from trainer_core.data.encode import encode_entries, encode_shard
from trainer_core.data.entries import EntryFolder
from trainer_core.data.entry_files import entry_name, write_entry_file
from trainer_core.data.index import Caption, DataIndex, Encoding, Entry, Picture
from trainer_core.data.shard_files import read_places
from trainer_core.data.shards import ShardSpec, shards_of, units_of
from trainer_core.errors import InjectedFaultError
from trainer_core.weights.entries import BadHeaderError, new_header

TEXT = Encoding(kind="text", encoder={"base_digest": "0" * 64})
LATENTS = Encoding(kind="latents", encoder={"base_digest": "0" * 64})


class Stand:
    """Encoders that make tensors of the text's characters."""

    def check(self, encoder: Mapping[str, JsonValue]) -> None:
        assert encoder == TEXT.encoder

    def latents(
        self, encoder: Mapping[str, JsonValue], images_1CHW: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        raise AssertionError(encoder)

    def texts(
        self, encoder: Mapping[str, JsonValue], texts: Sequence[str]
    ) -> Iterator[dict[str, torch.Tensor]]:
        return map(embeddings, texts)


def embeddings(text: str) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(len(text))
    return {
        "t5": torch.randn(1, 4, 2, generator=draw),
        "llama": torch.randn(1, 3, 4, 2, generator=draw).bfloat16(),
        "pooled": torch.randn(1, 5, generator=draw),
    }


def spec_of(*texts: str) -> ShardSpec:
    return ShardSpec(
        kind="text", encoder=TEXT.encoder, entries=tuple(Caption(text=text) for text in texts)
    )


def picture(name: str, width_px: int = 1024, height_px: int = 1024) -> Picture:
    cut = Geometry(
        resize_w=width_px,
        resize_h=height_px,
        crop_x=0,
        crop_y=0,
        width_px=width_px,
        height_px=height_px,
    )
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    return Picture(path=name, sha256=sha256, geometry=cut)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    encode_shard(Stand(), spec_of("a", "bb", "ccc"), {}, tmp_path / "shard")
    return tmp_path / "shard"


def test_a_range_of_a_shard_is_the_entry_encoded_alone(shard: Path, tmp_path: Path) -> None:
    body, places = shard.read_bytes(), read_places(shard)
    spec = spec_of("a", "bb", "ccc")

    assert tuple(places) == spec.digests()
    for digest, content in zip(spec.digests(), spec.entries, strict=True):
        place = places[digest]
        piece = body[place.offset_bytes : place.offset_bytes + place.size_bytes]
        (alone,) = encode_entries(Stand(), TEXT, [content], {})
        assert piece == b"".join(alone.parts)
        assert place.sha256 == alone.sha256 == hashlib.sha256(piece).hexdigest()
        path = tmp_path / entry_name(digest)
        write_entry_file(path, place.facts(), place.sha256, [piece], durable=False)
        read = EntryFolder(tmp_path).read(digest, "text")
        assert isinstance(content, Caption)
        for name, tensor in embeddings(content.text).items():
            assert torch.equal(read[name], tensor)


def test_the_safetensors_library_reads_a_shard(shard: Path) -> None:
    first, *_ = spec_of("a").digests()

    found = load_file(shard)

    assert len(found) == 3 * 3
    assert torch.equal(found[f"{first}/t5"], embeddings("a")["t5"])


def test_the_same_captions_give_the_same_bytes(shard: Path, tmp_path: Path) -> None:
    encode_shard(Stand(), spec_of("a", "bb", "ccc"), {}, tmp_path / "again")

    assert (tmp_path / "again").read_bytes() == shard.read_bytes()


def test_entries_do_not_depend_on_what_they_are_packed_with(shard: Path, tmp_path: Path) -> None:
    encode_shard(Stand(), spec_of("d", "ccc"), {}, tmp_path / "other")
    (digest,) = spec_of("ccc").digests()

    one, other = read_places(shard)[digest], read_places(tmp_path / "other")[digest]

    assert (one.sha256, one.tensors) == (other.sha256, other.tensors)


@pytest.mark.parametrize("point", ["encode.before_write", "encode.before_rename"])
def test_a_shard_appears_complete_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.setenv("FAULT_AT", f"{point}=raise")

    with pytest.raises(InjectedFaultError):
        encode_shard(Stand(), spec_of("a"), {}, tmp_path / "shard")

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept_bytes", [0, 4, 40, -1])
def test_a_shard_that_is_cut_off_is_refused(shard: Path, kept_bytes: int) -> None:
    shard.write_bytes(shard.read_bytes()[:kept_bytes])

    with pytest.raises(BadHeaderError, match="shard"):
        read_places(shard)


def test_a_file_whose_digests_are_not_those_of_its_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    save_file({"ab/t5": torch.zeros(1)}, path, metadata={"cd": "0" * 64})

    with pytest.raises(BadHeaderError, match="shard is no shard: its entries and digests differ"):
        read_places(path)


def test_an_entry_in_two_pieces_is_refused(tmp_path: Path) -> None:
    tensors = dict.fromkeys(("ab/t5", "cd/t5", "ab/llama"), ("U8", (1, 2)))
    path = tmp_path / "shard"
    path.write_bytes(new_header(tensors, dict.fromkeys(("ab", "cd"), "0" * 64)) + bytes(6))

    with pytest.raises(BadHeaderError, match="entry ab is not in one piece"):
        read_places(path)


def index_of(*contents: Picture | Caption) -> DataIndex:
    encodings = (TEXT, LATENTS)
    entries = []
    for content in dict.fromkeys(contents):
        which = int(isinstance(content, Picture))
        digest = encodings[which].digest_of(content)
        entries.append(Entry(digest=digest, encoding=which, content=content))
    return DataIndex(samples=(), encodings=encodings, entries=tuple(entries), prompts={})


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sampled_from([256, 1024, 2048]), max_size=150),
    st.integers(0, 40),
)
def test_every_missing_entry_is_in_one_shard_of_bounded_size(
    edges: list[int], captions: int
) -> None:
    contents: list[Picture | Caption] = [Caption(text=f"{n}") for n in range(captions)]
    contents += [picture(f"{n}", edge, edge) for n, edge in enumerate(edges)]
    index = index_of(*contents)
    missing = {entry.digest for n, entry in enumerate(index.entries) if n % 3}

    shards = list(shards_of(index, missing))

    packed = [digest for shard in shards for digest in shard.digests()]
    assert sorted(packed) == sorted(missing)
    for shard in shards:
        assert list(shard.digests()) == sorted(shard.digests())
        if shard.kind == "text":
            assert len(shard.entries) <= 7
        else:
            assert len(shard.entries) <= 64
            assert shard.units() <= 32 * 1.048576
    texts = [len(shard.entries) for shard in shards if shard.kind == "text"]
    assert all(count == 7 for count in texts[:-1])


def test_which_shards_are_made_does_not_depend_on_the_order_of_the_index() -> None:
    contents = [Caption(text=f"{n}") for n in range(20)]
    one, other = index_of(*contents), index_of(*reversed(contents))
    missing = {entry.digest for entry in one.entries}

    assert list(shards_of(one, missing)) == list(shards_of(other, missing))


def test_a_picture_larger_than_a_shard_has_one_of_its_own() -> None:
    index = index_of(picture("a", 8192, 8192), picture("b"), picture("c", 8192, 8192))

    shards = list(shards_of(index, {entry.digest for entry in index.entries}))

    assert sorted(len(shard.entries) for shard in shards) in ([1, 1, 1], [1, 2])
    assert sum(len(shard.entries) for shard in shards) == 3


def test_a_shard_is_named_by_its_entries_in_any_order() -> None:
    assert spec_of("a", "b").digest() == spec_of("b", "a").digest()
    assert spec_of("a", "b").digest() != spec_of("a", "c").digest()
    others = spec_of("a", "b").model_copy(update={"encoder": {"base_digest": "1" * 64}})
    assert others.digest() != spec_of("a", "b").digest()


def test_the_units_are_captions_or_millions_of_pixels() -> None:
    assert spec_of("a", "b").units() == 2
    assert units_of(picture("a", 1000, 500)) == 0.5
