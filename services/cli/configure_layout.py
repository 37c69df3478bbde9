"""The data backends of a proposal, and the links that keep out what a run cannot use."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from services.cli.configure_answers import Answers
from services.cli.configure_captions import Captions
from services.cli.configure_pictures import Pictures

CONFIG: Final = "config.json"
LYCORIS: Final = "lycoris_config.json"
BACKENDS: Final = "multidatabackend.json"
PROMPTS: Final = "user_prompt_library.json"
PICTURE_LINKS: Final = "pictures"
MASK_LINKS: Final = "masks"

_NOT_IN_IDS: Final = re.compile(r"[^A-Za-z0-9._-]+")
_MOST_ID: Final = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where the data of a run is."""

    id: str
    """Of the backend of the pictures."""
    data_backends: tuple[Mapping[str, Any], ...]
    links: Mapping[str, Path]
    """Path in the output folder → the file that a link there leads to. Empty where the run reads
    the pictures' own folder."""
    left_out: tuple[str, ...]
    """Pictures that cannot be used."""
    has_masks: bool


def layout_of(answers: Answers, pictures: Pictures, captions: Captions) -> Layout:
    """The data of a run; with links where a file cannot be used, or a run would train on masks."""
    left_out = (*pictures.broken, *captions.unreadable)
    has_masks = pictures.masks is not None and all(each.mask for each in captions.pictures)
    links: dict[str, Path] = {}
    if left_out or pictures.holds_masks:
        links = _links(pictures, captions, has_masks=has_masks)
    id_ = _id_of(answers.pictures)
    folder = answers.output / PICTURE_LINKS if links else answers.pictures
    backend: dict[str, Any] = {
        "id": id_,
        "type": "local",
        "instance_data_dir": folder_from_root(folder, answers.output),
        "cache_dir_vae": f"cache/vae/{id_}",
        "caption_strategy": captions.strategy,
    }
    if captions.prompt is not None:
        backend["instance_prompt"] = captions.prompt
    backend |= {"metadata_backend": "discovery", "crop": False, "repeats": 0}
    backends = [backend]
    if has_masks and pictures.masks is not None:
        backend["conditioning_data"] = f"{id_}-masks"
        masks = answers.output / MASK_LINKS if links else pictures.masks
        backends.append(
            {
                "id": f"{id_}-masks",
                "type": "local",
                "dataset_type": "conditioning",
                "conditioning_type": "mask",
                "instance_data_dir": folder_from_root(masks, answers.output),
            }
        )
    backends.append(
        {
            "id": f"{id_}-text",
            "type": "local",
            "dataset_type": "text_embeds",
            "default": True,
            "cache_dir": f"cache/text/{id_}",
        }
    )
    return Layout(
        id=id_,
        data_backends=tuple(backends),
        links=links,
        left_out=left_out,
        has_masks=has_masks,
    )


def file_from_root(name: str, output: Path) -> str:
    """One of the files as config.json names it: from the folder that SimpleTuner is started in.

    That is the parent of ``config``, which holds the files, or a folder of them for each run.
    """
    root = output.parent.parent if _is_one_of_many(output) else output.parent
    return (output / name).relative_to(root).as_posix()


def folder_from_root(folder: Path, output: Path) -> str:
    """A folder of pictures as a data backend names it; outside the root by its whole path.

    Reverie tries relative names from the parent of the files' folder.
    """
    if folder.is_relative_to(output.parent) and not _is_one_of_many(output):
        return folder.relative_to(output.parent).as_posix()
    return str(folder)


def _is_one_of_many(output: Path) -> bool:
    """Whether the folder is one run's in SimpleTuner's ``config``."""
    return output.parent.name == "config"


def _links(pictures: Pictures, captions: Captions, *, has_masks: bool) -> dict[str, Path]:
    links: dict[str, Path] = {}
    for picture in captions.pictures:
        links[f"{PICTURE_LINKS}/{picture.name}"] = pictures.folder / picture.name
        if picture.caption_file is not None and captions.strategy == "textfile":
            links[f"{PICTURE_LINKS}/{picture.caption_file}"] = (
                pictures.folder / picture.caption_file
            )
        if has_masks and picture.mask is not None and pictures.masks is not None:
            suffix = PurePosixPath(picture.mask).suffix
            name = PurePosixPath(picture.name).with_suffix(suffix)
            links[f"{MASK_LINKS}/{name}"] = pictures.masks / picture.mask
    return links


def _id_of(folder: Path) -> str:
    """The name of a folder with the characters that an id may have."""
    plain = _NOT_IN_IDS.sub("-", folder.name)[:_MOST_ID].strip("-._")
    return plain or "pictures"
