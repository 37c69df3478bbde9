"""Admission of a run says what of its dataset is lost: cut captions, caption files of no image."""

from datetime import UTC, datetime
from pathlib import Path

from services.cache_builder.indexing.deciding import Admitted, decide
from services.store.admission import BackendData
from services.store.datasets import Dataset, DatasetFile
from tests.support.objects import plain_folder
from tests.unit.config_examples import import_small

LONG = "a grey heron waits in the reeds " * 6


def file(path: str, text: str | None = None) -> DatasetFile:
    return DatasetFile(
        path=path,
        media="image" if text is None else "caption",
        size_bytes=1,
        sha256=path.encode().hex().ljust(64, "0"),
        width_px=256 if text is None else None,
        height_px=256 if text is None else None,
        lit="red" if text is None else None,
        text=text,
        left_out=None,
    )


def test_the_tokenizers_of_the_base_model_count_the_captions(
    tiny_models_dir: Path, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    dataset = Dataset(
        dataset_id="ds_1", tenant_id="ten_1", name="birds", status="ready", errors=[],
        num_files=6, verified_files=6, num_left_out=0, left_out=[], digest=None, based_on=None,
        created_at=now, updated_at=now,
    )  # fmt: skip
    files = [file("a.png"), file("a.txt", LONG), file("B.PNG"), file("B.TXT", "a reed")]
    files += [file("c.txt", "no image"), file("d.png")]
    options = {"id": "birds", "caption_strategy": "textfile"}
    plan = import_small({"train_batch_size": 1}, backends=[options]).plan

    decision = decide(
        plan.model_dump(mode="json"),
        "hidream-tiny",
        [BackendData(backend="birds", dataset=dataset, files=files)],
        models_dir=tiny_models_dir,
        objects=plain_folder(tmp_path),
        unusable_of=lambda _: {},
        max_index_bytes=1 << 20,
    )

    assert isinstance(decision, Admitted)
    unused, uncaptioned, cut = decision.warnings
    assert unused == "birds: 1 caption file is not used, because no image has the same name: c.txt."
    assert uncaptioned == "birds: 1 of 3 images are without a caption and are left out: d.png."
    assert cut.startswith("1 of 2 captions is longer than the 128 tokens")
    assert "estimated" not in cut  # for the tiny model, which has a token for each letter
