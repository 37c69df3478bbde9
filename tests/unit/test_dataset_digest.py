"""The digest of a dataset, against a formula that takes the tree as it is written down."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.dataset_digest import DigestedFile, digest_of, in_order

NAMES = st.text(st.sampled_from("aZé0.- !"), min_size=1, max_size=3)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
FACTS = st.tuples(
    st.sampled_from(["image", "caption"]), st.integers(0, 3), st.sampled_from(["a" * 64, "b" * 64])
)
DATASETS = st.dictionaries(PATHS, FACTS, max_size=12)


def files_of(dataset: dict[str, Any]) -> list[DigestedFile]:
    """Its files, but for those that are folders of others."""
    return [
        DigestedFile(path, *facts)
        for path, facts in dataset.items()
        if not any(other.startswith(f"{path}/") for other in dataset)
    ]


def of_tree(tree: dict[str, Any]) -> bytes:
    """The digest of a folder; what lies in it is a dict, or the facts of a file."""
    entries = []
    for name, inner in tree.items():
        if isinstance(inner, dict):
            entries.append((f"{name}/".encode(), name, b"folder", of_tree(inner)))
        else:
            media, size_bytes, sha256 = inner
            content = f"{media}\0{size_bytes}\0{sha256}".encode()
            entries.append((name.encode(), name, b"file", hashlib.sha256(content).digest()))
    body = b"".join(
        name.encode() + b"\0" + kind + b"\0" + digest for _, name, kind, digest in sorted(entries)
    )
    return hashlib.sha256(body).digest()


@given(dataset=DATASETS)
def test_the_digest_is_that_of_the_tree(dataset: dict[str, Any]) -> None:
    files = files_of(dataset)
    tree: dict[str, Any] = {}
    for path, *facts in files:
        *folders, name = path.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = facts
    assert digest_of(in_order(files)) == f"sha256:{of_tree(tree).hex()}"


@given(one=DATASETS, other=DATASETS)
def test_datasets_have_one_digest_where_their_files_are_the_same(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    ours, theirs = (in_order(files_of(each)) for each in (one, other))
    assert (digest_of(ours) == digest_of(theirs)) == (ours == theirs)


def test_the_digest_stays_what_it_was() -> None:
    files = [
        DigestedFile("a.jpg", "image", 3, "0" * 64),
        DigestedFile("a/b.jpg", "image", 4, "1" * 64),
        DigestedFile("a/b.txt", "caption", 0, "2" * 64),
    ]
    assert digest_of(files) == (
        "sha256:726137d9c0cc0637b1c87900b4cb37bec841e08c8afbd975bc17f9563db25bf4"
    )
    for wrong in (reversed(files), [files[0], files[0]]):
        with pytest.raises(ValueError, match="is not behind the path before it"):
            digest_of(wrong)
