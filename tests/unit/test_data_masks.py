"""Where an image counts: the mask of the same name, cut as its image is, averaged over cells."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.config.plan import MaskKind, Plan
from trainer_core.config.plan.problems import PlanError
from trainer_core.data.buckets import Geometry, geometry_of
from trainer_core.data.captions import captions_of
from trainer_core.data.encode import encode_entries
from trainer_core.data.entries import EntryFolder, write_entry
from trainer_core.data.entry_files import entry_name
from trainer_core.data.images import inspect_image, load_mask
from trainer_core.data.index import DataIndex, Encoding, FileItem, Picture
from trainer_core.data.indexing import build_index
from trainer_core.errors import BadImageError

WHOLE = Geometry(resize_w=128, resize_h=64, crop_x=0, crop_y=0, width_px=128, height_px=64)


def plan_of(kind: str = "mask", *, masked: bool = True) -> Plan:
    backends = [{"id": name, "caption_strategy": "filename"} for name in ("a", "m")]
    plan = import_small({}, backends=backends).plan
    image, mask = plan.identity.backends
    image = image.model_copy(update={"masks": "m"}) if masked else image
    mask = mask.model_copy(update={"role": "mask", "mask_kind": kind})
    changed = (image, mask) if masked else (image,)
    identity = plan.identity.model_copy(update={"backends": changed})
    return plan.model_copy(update={"identity": identity})


def file(backend: str, path: str, size: tuple[int, int] = (256, 256)) -> FileItem:
    return FileItem(
        backend=backend,
        path=path,
        sha256=hashlib.sha256(f"{backend} {path}".encode()).hexdigest(),
        width_px=size[0],
        height_px=size[1],
        captions=() if backend == "m" else ("a cat",),
    )


def index_of(items: Sequence[FileItem], kind: str = "mask") -> DataIndex:
    return build_index(plan_of(kind), items, TINY_CONFIG)


def content_of(index: DataIndex, entry: int) -> Picture:
    content = index.entries[entry].content
    assert isinstance(content, Picture)
    return content


def test_each_image_gets_the_mask_of_the_same_name_with_its_own_geometry() -> None:
    sizes = [(256, 256), (300, 200), (200, 300)]
    images = [file("a", f"in/{n}.jpg", sizes[n % 3]) for n in range(60)]
    masks = [file("m", f"in/{n}.png", (64, 64)) for n in range(60)]

    index = index_of([*masks, *images, file("m", "in/other.png")], "segmentation")

    assert [sample.backend for sample in index.samples] == ["a"] * 60
    for sample in index.samples:
        assert sample.mask is not None
        picture, mask = content_of(index, sample.latents), content_of(index, sample.mask)
        assert mask.path == picture.path.replace(".jpg", ".png")
        assert mask.sha256 != picture.sha256
        assert mask.geometry == picture.geometry
        encoding = index.encodings[index.entries[sample.mask].encoding]
        assert encoding.kind == "masks"
        assert encoding.encoder == {"mask_kind": "segmentation", "cell_px": 8}
    assert sum(index.kind_of(n) == "masks" for n in range(len(index.entries))) == 60
    assert DataIndex.model_validate(index.model_dump(mode="json")) == index


def test_masks_leave_the_entries_of_images_and_captions_alone() -> None:
    images = [file("a", f"{n}.png") for n in range(20)]
    masks = [file("m", f"{n}.png") for n in range(20)]

    masked = index_of([*images, *masks])
    plain = build_index(plan_of(masked=False), images, TINY_CONFIG)

    names = [(entry.digest, masked.kind_of(n)) for n, entry in enumerate(masked.entries)]
    of_images = {digest for digest, kind in names if kind != "masks"}
    assert of_images == {entry.digest for entry in plain.entries}
    assert masked.digest() != plain.digest()


def test_digests_stay_those_of_earlier_versions() -> None:
    """Caches and resumes go by them."""
    items = [
        FileItem(
            backend="a",
            path=f"{n}.png",
            sha256=f"{n:064x}",
            width_px=300,
            height_px=200,
            captions=(f"caption {n}", "both"),
        )
        for n in range(3)
    ]

    index = build_index(plan_of(masked=False), items, TINY_CONFIG)

    assert index.digest() == PINNED_INDEX
    digests = {index.kind_of(n): entry.digest[:12] for n, entry in enumerate(index.entries)}
    assert digests == PINNED_LAST_ENTRIES


PINNED_INDEX = "8676921d16e82c990f3d25d02ef8f611d990bd5348ce774ef0a05d0efa4ae926"
PINNED_LAST_ENTRIES = {"text": "08d39e3665a3", "latents": "46de7678983f"}


def test_images_without_a_mask_or_with_two_are_named() -> None:
    images = [file("a", f"{n}.png") for n in range(8)]
    masks = [file("m", "0.png"), file("m", "0.jpg")]

    with pytest.raises(PlanError) as caught:
        index_of([*images, *masks])

    reported = {(p.pointer, p.code): p.message for p in caught.value.problems}
    at = "/data_backends/0/conditioning_data"
    assert reported.keys() == {(at, "missing"), (at, "conflict")}
    assert "7 of 8 images" in reported[at, "missing"]
    assert "1.png, 2.png, 3.png, 4.png, 5.png and 2 more" in reported[at, "missing"]
    assert "0.png" in reported[at, "conflict"]


def test_an_image_that_is_left_out_needs_no_mask() -> None:
    uncaptioned = file("a", "b.png").model_copy(update={"captions": ()})

    index = index_of([file("a", "a.png"), uncaptioned, file("m", "a.png")])

    assert [sample.path for sample in index.samples] == ["a.png"]


def test_a_mask_of_another_shape_is_stretched_with_a_warning() -> None:
    images = [file("a", "a.png", (300, 200)), file("a", "b.png", (300, 200))]

    index = index_of([*images, file("m", "a.png", (150, 100)), file("m", "b.png", (200, 300))])

    (warning,) = (text for text in index.warnings if "masks" in text)
    assert "1 masks have another aspect ratio" in warning
    assert "b.png" in warning


def test_masks_have_no_captions() -> None:
    _, mask = plan_of().identity.backends

    assert captions_of(mask, "a.png", "a cat") == ()


def test_captions_with_a_placeholder_get_a_warning() -> None:
    item = file("a", "a.png").model_copy(update={"captions": ("a <token> on a mat",)})

    index = build_index(plan_of(masked=False), [item, file("a", "b.png")], TINY_CONFIG)

    (warning,) = (text for text in index.warnings if "placeholder" in text)
    assert "1 images" in warning
    assert "<token> of a.png" in warning


class NoModels:
    """Masks need none."""

    def check(self, encoder: object) -> None:
        raise AssertionError(encoder)

    latents = texts = check


def encoded(
    tmp_path: Path, mask: Image.Image, kind: str = "mask", geometry: Geometry = WHOLE
) -> torch.Tensor:
    path = tmp_path / "mask.png"
    mask.save(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    encoding = Encoding(kind="masks", encoder={"mask_kind": kind, "cell_px": 8})
    picture = Picture(path="in/mask.png", sha256=sha256, geometry=geometry)
    (entry,) = encode_entries(NoModels(), encoding, [picture], {sha256: path})
    write_entry(tmp_path / entry_name("ab12"), entry)
    return EntryFolder(tmp_path).read("ab12", "masks")["mask"]


def test_a_mask_is_the_mean_of_red_over_each_cell(tmp_path: Path) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (64, 128, 3), dtype=np.uint8)

    found = encoded(tmp_path, Image.fromarray(levels))

    right = levels[:, :, 0].reshape(8, 8, 16, 8).mean(axis=(1, 3)) / 255
    assert found.shape == (1, 1, 8, 16)
    assert found.dtype == torch.float32
    assert np.allclose(found[0, 0].numpy(), right, atol=1e-6)


def test_a_segmentation_counts_cells_with_anything_above_black(tmp_path: Path) -> None:
    picture = Image.new("RGB", (128, 64))
    picture.putpixel((9, 0), (0, 0, 1))
    picture.paste((200, 0, 0), (64, 32, 128, 64))

    found = encoded(tmp_path, picture, "segmentation")

    right = torch.zeros(8, 16)
    right[0, 1] = 1
    right[4:, 8:] = 1
    assert torch.equal(found[0, 0], right)


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("size", [(512, 256), (640, 480), (300, 700)])
def test_a_mask_of_any_size_lies_over_its_image(
    tmp_path: Path, size: tuple[int, int], scale: int
) -> None:
    """What is white in the mask is where the image is cut as its twin would be."""
    backend = plan_of().identity.backends[0].model_copy(update={"crop": True, "resolution_px": 192})
    geometry = geometry_of(*size, backend, 256 * 256, "")
    mask = Image.new("L", (size[0] // scale, size[1] // scale))
    mask.paste(255, (0, 0, mask.width // 2, mask.height))

    found = encoded(tmp_path, mask, geometry=geometry)[0, 0]

    across = torch.arange(found.shape[1]) * 8 + 4 + geometry.crop_x
    edge = geometry.resize_w / 2
    assert (found[:, across < edge - 12] == 1).all()
    assert (found[:, across > edge + 12] == 0).all()
    assert found.shape == (geometry.height_px // 8, geometry.width_px // 8)


def test_what_is_transparent_does_not_count(tmp_path: Path) -> None:
    mask = Image.new("RGBA", (128, 64), (255, 255, 255, 255))
    mask.paste((255, 255, 255, 0), (0, 0, 64, 64))

    found = encoded(tmp_path, mask)[0, 0]

    assert torch.equal(found, torch.cat([torch.zeros(8, 8), torch.ones(8, 8)], dim=1))


@pytest.mark.parametrize("kind", ["mask", "segmentation"])
def test_a_mask_that_leaves_nothing_of_its_image_is_named(tmp_path: Path, kind: str) -> None:
    mask = Image.new("RGB", (128, 64))
    mask.paste("white", (0, 0, 8, 64))
    cut = WHOLE.model_copy(update={"crop_x": 32, "width_px": 64})

    with pytest.raises(BadImageError, match=r"in/mask\.png: the mask is black"):
        encoded(tmp_path, mask, kind, cut)


@pytest.mark.parametrize(
    ("mode", "paint", "lit"),
    [
        ("L", None, "nothing"),
        ("L", 1, "red"),
        ("1", 1, "red"),
        ("I;16", 256, "red"),
        ("I;16", 255, "nothing"),  # less than one of 256 levels
        ("RGB", (0, 0, 1), "other"),
        ("RGB", (1, 0, 0), "red"),
        ("RGBA", (255, 255, 255, 0), "nothing"),
        ("RGBA", (0, 255, 0, 255), "other"),
        ("LA", (255, 255), "red"),
        ("P", 1, "red"),
    ],
)
def test_a_mask_is_called_black_where_no_cell_counts(
    tmp_path: Path, mode: str, paint: Any, lit: str
) -> None:
    mask = Image.new(mode, (128, 64))
    if mode == "P":
        mask.putpalette([0, 0, 0, 9, 0, 0])
    if paint is not None:
        mask.putpixel((40, 30), paint)
    path = tmp_path / "mask.png"
    mask.save(path)
    counts = {
        kind: np.asarray(load_mask(path, WHOLE, kind, 8, name="m")).any()
        for kind in get_args(MaskKind)
    }

    found = inspect_image(path, name="m", is_mask=True).lit

    assert found == lit
    assert counts == {"mask": found == "red", "segmentation": found != "nothing"}


def test_a_mask_of_jpeg_is_looked_at_whole(tmp_path: Path) -> None:
    mask = Image.new("L", (1024, 1024))
    mask.paste(40, (500, 500, 501, 501))  # nothing of it is left at an eighth of the size
    mask.save(tmp_path / "mask.jpg", quality=95)

    assert inspect_image(tmp_path / "mask.jpg", name="m", is_mask=True).lit == "red"
    assert inspect_image(tmp_path / "mask.jpg", name="m").lit is None
