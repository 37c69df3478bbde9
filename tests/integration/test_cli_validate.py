"""`reverie validate`: the plan of SimpleTuner's files, or all of their errors."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from services.cli.connection import CommandError, Invocation
from services.cli.program import app
from tests.support.planted_pictures import plant_odd
from tests.unit.config_examples import (
    CONFIG_TEXT,
    LYCORIS_TEXT,
    NAMED_PRESET,
    REGULARISATION,
    SUBJECT,
    TEXT_EMBEDS,
    TINY_CONFIG,
)
from trainer_core.documents import parse_document

ROOT = Path(__file__).parents[2]
KEYS = {
    *("trainable_modules", "trainable_parameters", "steps", "epochs", "buckets", "memory"),
    *("notices", "warnings", "data", "contact_sheet"),
    *("errors", "used_files", "plan_digest", "matmul", "deterministic", "cards"),
}
FRESH = """
import sys
from services.cli.main import main
try:
    main()
finally:
    heavy = {"torch", "diffusers", "transformers", "lycoris", "peft"} & set(sys.modules)
    assert not heavy, heavy
"""

Answer = tuple[int, dict[str, Any]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The published files, all in one folder, and an image each; they name it by longer paths."""
    folder = tmp_path / "project" / "config"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(CONFIG_TEXT)
    (folder / "lycoris_config.json").write_text(LYCORIS_TEXT)
    lycoris: Any = parse_document(LYCORIS_TEXT, name="l")
    named = {**lycoris, "apply_preset": NAMED_PRESET}
    (folder / "lycoris_config.no-experts.json").write_text(json.dumps(named))
    write(folder / "multidatabackend.json", [TEXT_EMBEDS, REGULARISATION, SUBJECT])
    for backend in (REGULARISATION, SUBJECT):
        images = folder.parent / backend["instance_data_dir"]
        images.mkdir(parents=True)
        Image.new("RGB", (1100, 1100)).save(images / "a.png")
    return folder


@pytest.fixture
def validate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Runs the command in this process: exit status, and the JSON it printed. No model is here."""
    monkeypatch.chdir(tmp_path)

    def run(folder: Path, *arguments: str, **env: str) -> Answer:
        env = {"REVERIE_HOME": str(tmp_path / "home"), **env}
        command = ["validate", "--config", str(folder), "--json", *arguments]
        status = app(command, obj=Invocation(env=env), standalone_mode=False)
        (line,) = capsys.readouterr().out.splitlines()
        answer = json.loads(line)
        assert answer.keys() == KEYS
        return int(status or 0), answer

    return run


def write(path: Path, body: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("preset", "sizes"),
    [
        ("config/lycoris_config.json", (256, 6_619_392)),
        ("lycoris_config.no-experts.json", (448, 15_147_456)),
    ],
)
@pytest.mark.parametrize("precision", ["int8-quanto", "no_change"])
def test_the_published_presets_have_their_sizes_whatever_the_precision(
    project: Path,
    validate: Callable[..., Answer],
    preset: str,
    sizes: tuple[int, int],
    precision: str,
) -> None:
    settings = (f"lycoris_config={preset}", f"base_model_precision={precision}")
    status, answer = validate(project, *(part for s in settings for part in ("--set", s)))

    assert status == 0
    assert (answer["trainable_modules"], answer["trainable_parameters"]) == sizes
    assert answer["steps"] == 10_000
    assert answer["errors"] == []
    assert [bucket["images"] for bucket in answer["buckets"]] == [1, 1]
    assert answer["memory"]["adapter_bytes"] == 4 * sizes[1]
    in_8_bits = "fp8" if precision == "int8-quanto" else "no_change"
    assert answer["matmul"] == {
        "CPU": "no_change",
        "cards before 8.0": "no_change",
        "8.0 to 8.8": "no_change",
        "8.9": "no_change",
        "9.0": in_8_bits,
        "cards after 9.0": "no_change",
    }
    assert answer["used_files"]["lycoris_config"].endswith(preset.rpartition("/")[2])


def test_a_fresh_process_needs_no_torch_and_prints_one_line(project: Path) -> None:
    command = [sys.executable, "-c", FRESH, "validate", "--config", str(project), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["trainable_modules"] == 256
    readable = subprocess.run(command[:-1], capture_output=True, text=True, cwd=ROOT, check=False)
    assert readable.returncode == 0, readable.stderr
    for words in (
        "256 modules, 6,619,392 parameters",
        "optimi-lion",
        "by value at 0.01",
        "no_change on CPU, cards before 8.0, 8.0 to 8.8, 8.9, cards after 9.0; fp8 on 9.0",
        "on a GPU as good as an unbroken run, but not bit for bit; see deterministic",
        "estimate",
        "Cards of capability 9;",
        "LARGEST BATCH",
        "80 GB",
        "all weights, transposed too",
        "all but modulation, captions",
    ):
        assert words in readable.stdout
    assert "lycoris_config.json" in readable.stderr


def test_a_contact_sheet_is_written_outside_of_the_images_only(
    project: Path, validate: Callable[..., Answer], tmp_path: Path
) -> None:
    folder = project.parent / SUBJECT["instance_data_dir"]
    before = sorted(path.name for path in folder.iterdir())

    _, answer = validate(project, "--contact-sheet", str(tmp_path / "new" / "sheet.jpg"))
    with pytest.raises(CommandError, match=r"is in .*, the images of dreambooth-subject"):
        validate(project, "--contact-sheet", str(folder / "sheet.jpg"))
    with pytest.raises(typer.BadParameter, match=r"sheet\.pdf is neither a file in \.jpg"):
        validate(project, "--contact-sheet", str(tmp_path / "sheet.pdf"))

    assert answer["contact_sheet"] == [str(tmp_path / "new" / "sheet.jpg")]
    with Image.open(answer["contact_sheet"][0]) as sheet:
        assert sheet.format == "JPEG"
    assert sorted(path.name for path in folder.iterdir()) == before


def test_the_data_is_shown_as_tables(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = project.parent / SUBJECT["instance_data_dir"]
    plant_odd(folder)
    (folder / "cut.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:500])
    (folder / "large.png").write_bytes((folder / "a.png").read_bytes())
    monkeypatch.chdir(tmp_path)

    app(
        ["validate", "--config", str(project)],
        obj=Invocation(env={"REVERIE_HOME": str(tmp_path / "home")}),
        standalone_mode=False,
    )

    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "dreambooth-subject left out: cannot be read 1 cut.jpg" in shown
    assert (
        "dreambooth-subject left out: too small 11 again-smaller.jpg, again.jpg, clear.png, …"
        in (shown)
    )
    assert "BACKEND ROLE BUCKET IMAGES AN EPOCH CUT AWAY ENLARGED" in shown
    first, second = (f"{each['id']}/a.png" for each in (REGULARISATION, SUBJECT))
    assert f"copies, byte for byte 3 {first} = {second} = {SUBJECT['id']}/large.png" in shown


@pytest.mark.parametrize(
    ("settings", "on"),
    [
        (("base_model_matmul_precision=int8",), "8, 9 and 10"),
        (("base_model_matmul_precision=int8", "lora_type=standard",
          'peft_lora_target_modules=["experts.1.w2"]'), "9 and 10"),
        (("base_model_matmul_precision=fp8",), "8.9, 9 and 10"),
        (("base_model_matmul_precision=fp8", "lora_type=standard",
          'peft_lora_target_modules=["experts.1.w2"]'), "9 and 10"),
        (("base_model_precision=no_change",), "9 and 10"),
        (("base_model_precision=int8-quanto",), "9"),
    ],
)  # fmt: skip
def test_the_table_says_which_cards_it_is_for(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: tuple[str, ...],
    on: str,
) -> None:
    monkeypatch.chdir(project)
    command = ["validate", "--config", str(project)]
    command += [part for each in settings for part in ("--set", each)]

    app(command, obj=Invocation(env={"REVERIE_HOME": str(project)}), standalone_mode=False)

    assert f"Cards of capability {on}; others" in capsys.readouterr().out


def test_a_run_that_fits_no_card_is_told_what_would_fit(
    project: Path, validate: Callable[..., Answer]
) -> None:
    wide = ("gradient_checkpointing=false", "train_batch_size=16")
    status, answer = validate(project, *(part for s in wide for part in ("--set", s)))

    assert status == 0
    assert [card["card_gib"] for card in answer["cards"]] == [80, 48, 24, 16, 12]
    assert {card["peak_estimate_bytes"] for card in answer["cards"]} == {None}
    refusals = [card["refusal"] for card in answer["cards"]]
    assert refusals[0].endswith("it fits with gradient_checkpointing true")
    assert refusals[1].endswith("it fits with train_batch_size 1")
    both = "it fits with gradient_checkpointing true and train_batch_size"
    assert all(both in refusal for refusal in refusals[2:])
    assert any(w.startswith("A card of 80 GB is too small") for w in answer["warnings"])


def test_all_errors_are_reported_at_once_each_with_its_option(
    project: Path, validate: Callable[..., Answer], capsys: pytest.CaptureFixture[str]
) -> None:
    subject = {**SUBJECT, "crops": 1}
    write(project / "multidatabackend.json", [subject])
    wrong = ("optimiser=x", "user_prompt_library=none.json", "lr_scheduler=sine", "seed=x")
    arguments = [part for setting in wrong for part in ("--set", setting)]

    status, answer = validate(project, *arguments)

    assert status == 1
    assert answer["trainable_modules"] is answer["memory"] is answer["steps"] is None
    assert {(e["pointer"], e["code"]) for e in answer["errors"]} == {
        ("/config/user_prompt_library", "bad_file"),
        ("/config/optimiser", "unknown_option"),
        ("/config/lr_scheduler", "not_implemented"),
        ("/config/seed", "bad_value"),
        ("/data_backends/0/crops", "unknown_option"),
    }
    assert all(error.keys() == {"pointer", "code", "message"} for error in answer["errors"])
    by_pointer = {error["pointer"]: error["message"] for error in answer["errors"]}
    assert "optimizer" in by_pointer["/config/optimiser"]
    assert "none.json" in by_pointer["/config/user_prompt_library"]

    command = ["validate", "--config", str(project), "--set", "seed=x"]
    assert app(command, obj=Invocation(env={}), standalone_mode=False) == 1
    printed = capsys.readouterr().err
    assert f"{project}/multidatabackend.json /data_backends/0/crops" in printed
    assert f"{project}/config.json /config/seed" in printed


@pytest.mark.parametrize("content", ["[", '["no object"]', None])
def test_a_config_that_cannot_be_read_is_one_error(
    tmp_path: Path, validate: Callable[..., Answer], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)

    status, answer = validate(tmp_path)

    assert status == 1
    assert [(error["pointer"], error["code"]) for error in answer["errors"]] == [("", "bad_file")]


def test_images_on_this_machine_are_assigned_to_buckets(
    project: Path, validate: Callable[..., Answer]
) -> None:
    folder = project.parent / SUBJECT["instance_data_dir"]
    for name, size in {"b.png": (1100, 1100), "c.jpg": (2000, 1000), "s.png": (64, 64)}.items():
        Image.new("RGB", size).save(folder / name)

    status, answer = validate(project)

    assert status == 0
    subject = {"backend": "dreambooth-subject", "role": "train", "repeats": 1000}
    assert answer["buckets"][1:] == [
        {**subject, "width_px": 1024, "height_px": 1024, "images": 2, "samples_per_epoch": 2002},
        {**subject, "width_px": 1472, "height_px": 704, "images": 1, "samples_per_epoch": 1001},
    ]
    assert "1 of 4 images are smaller than" in " ".join(answer["warnings"])


def test_a_run_that_would_fail_at_its_data_is_wrong(
    project: Path, validate: Callable[..., Answer]
) -> None:
    regularisation = project.parent / REGULARISATION["instance_data_dir"]
    folder = project.parent / SUBJECT["instance_data_dir"]
    for name in ("torn.jpg", "worn.jpg"):
        (folder / name).write_bytes(b"\xff\xd8\xff")
    Image.new("RGB", (64, 64)).save(regularisation / "a.png")

    torn_status, torn = validate(project)
    for name in ("torn.jpg", "worn.jpg"):
        (folder / name).unlink()
    small_status, small = validate(project)
    shutil.rmtree(folder)
    gone_status, gone = validate(project)

    assert torn_status == small_status == gone_status == 1
    for answer, pointer, words in (
        (
            torn,
            "/data_backends/2",
            f"dreambooth-subject: 2 files in {folder} cannot be used:\n  torn",
        ),
        (small, "/data_backends/1", "No image left: pseudo-camera-10k-hidream: 1 of 1 images are"),
        (gone, "/data_backends/2/instance_data_dir", "is not a folder in any of these places"),
    ):
        (error,) = answer["errors"]
        assert error["pointer"] == pointer
        assert words in error["message"]
        assert answer["trainable_modules"] == 256  # the plan is shown all the same
    assert [bucket["backend"] for bucket in torn["buckets"]] == ["dreambooth-subject"]


def test_a_few_broken_pictures_are_named_and_a_run_could_start(
    project: Path, validate: Callable[..., Answer]
) -> None:
    folder = project.parent / SUBJECT["instance_data_dir"]
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff")

    status, answer = validate(project)

    assert status == 0
    count, why = (each for each in answer["warnings"] if "dreambooth-subject: " in each)
    assert count == "dreambooth-subject: 1 of 2 images cannot be used and is left out."
    assert why.startswith("dreambooth-subject: torn.jpg: not a picture of a known format")
    (left_out,) = answer["data"]["backends"][1]["left_out"]
    assert (left_out["reason"], left_out["count"]) == ("decode_error", 1)
    assert [file["path"] for file in left_out["first"]] == ["torn.jpg"]


def test_a_quick_look_reads_headers_and_says_so(
    project: Path, validate: Callable[..., Answer], tmp_path: Path
) -> None:
    image = project.parent / SUBJECT["instance_data_dir"] / "a.png"
    image.write_bytes(image.read_bytes()[:200])

    closely, _ = validate(project)
    status, answer = validate(project, "--quick")
    with pytest.raises(typer.BadParameter, match="--quick decodes no image"):
        validate(project, "--quick", "--contact-sheet", str(tmp_path / "a.jpg"))

    assert (closely, status) == (1, 0)
    assert answer["data"]["depth"] == "headers"
    assert [bucket["images"] for bucket in answer["buckets"]] == [1, 1]
    assert any(each.startswith("Only the headers of images were") for each in answer["warnings"])


def test_the_steps_of_epochs_are_counted_from_the_folders(
    project: Path, validate: Callable[..., Answer], capsys: pytest.CaptureFixture[str]
) -> None:
    backend = {**SUBJECT, "repeats": 1, "minimum_image_size": 0}
    write(project / "multidatabackend.json", [backend, TEXT_EMBEDS])
    length = ("--set=max_train_steps=0", "--set=num_train_epochs=3", "--set=train_batch_size=4")

    folder = project.parent / "datasets/dreambooth-subject"
    shutil.rmtree(folder)
    _, elsewhere = validate(project, *length)
    folder.mkdir()
    for name, size in {"a": (1100, 1100), "b": (1100, 1100), "c": (2000, 1000)}.items():
        Image.new("RGB", size).save(folder / f"{name}.png")
    status, answer = validate(project, *length, "--set=lr_warmup_steps=7")
    asked = ("--set=use_ema=true", "--set=ema_update_interval=7")
    failed, refused = validate(project, *length, *asked)

    assert (elsewhere["steps"], elsewhere["epochs"]) == (None, 3)
    # Four uses of the squares are a batch, two of the wide one are topped up to one.
    assert (status, answer["steps"], answer["epochs"]) == (0, 6, 3)
    assert "lr_warmup_steps: 7 is longer than the run of 6 steps." in answer["warnings"]
    assert failed == 1
    (error,) = refused["errors"]
    assert error["pointer"] == "/config/ema_update_interval"
    app(
        ["validate", "--config", str(project), *length],
        obj=Invocation(env={"REVERIE_HOME": str(project)}),
        standalone_mode=False,
    )
    assert "3 epochs: 6 of 4 samples (4 a batch" in capsys.readouterr().out


def test_a_step_without_a_backend_is_an_error_of_the_backends(
    project: Path, validate: Callable[..., Answer]
) -> None:
    """It ends with its first epoch, which is two batches."""
    backend = {**SUBJECT, "repeats": 1, "minimum_image_size": 0, "end_epoch": 1}
    write(project / "multidatabackend.json", [backend, TEXT_EMBEDS])
    folder = project.parent / "datasets/dreambooth-subject"
    shutil.rmtree(folder)
    folder.mkdir()
    Image.new("RGB", (1100, 1100)).save(folder / "a.png")

    status, answer = validate(project, "--set=max_train_steps=3")
    whole, _ = validate(project, "--set=max_train_steps=2")

    assert (status, whole) == (1, 0)
    (error,) = answer["errors"]
    assert (error["pointer"], error["code"]) == ("/data_backends", "conflict")
    assert error["message"] == (
        "No data backend is trained on at step 3: dreambooth-subject ends after epoch 1. Let one "
        "of them start earlier or end later."
    )


def test_a_base_model_is_found_by_name_by_folder_and_by_its_known_shape(
    project: Path, tmp_path: Path, validate: Callable[..., Answer]
) -> None:
    def modules(name: str, **env: str) -> tuple[int | None, str | None, list[str]]:
        small = ("resolution=256", f"pretrained_model_name_or_path={name}")
        arguments = [part for setting in small for part in ("--set", setting)]
        _, answer = validate(project, *arguments, **env)
        return (
            answer["trainable_modules"],
            answer["plan_digest"],
            [error["pointer"] for error in answer["errors"]],
        )

    write(tmp_path / "models/mine/transformer/config.json", TINY_CONFIG)
    write(tmp_path / "project/bases/other/transformer/config.json", TINY_CONFIG)
    write(tmp_path / "broken/transformer/config.json", {"num_layers": "x"})
    description = {"name": "mine", "digest": "d" * 64, "files": {}}
    write(tmp_path / "models/mine/reverie-base.json", description)
    at = ["/config/pretrained_model_name_or_path"]

    count, digest, errors = modules("mine", REVERIE_MODELS_DIR=str(tmp_path / "models"))
    assert (count, errors) == (16, [])
    assert digest is not None
    assert modules("bases/other") == (16, None, [])
    assert modules("hidream-tiny") == (24, None, [])
    assert modules("hidream-wide") == (16, None, [])
    assert modules("owner/a-copy") == (256, None, [])
    assert modules("broken") == (None, None, at)
    assert modules("hidream-tinny") == (None, None, at)
    assert modules("mine", REVERIE_MODELS_DIR=str(tmp_path / "nowhere")) == (None, None, at)


def test_a_setting_without_a_value_is_wrong_usage_and_help_has_examples(project: Path) -> None:
    command = [sys.executable, "-m", "services.cli.main", "validate"]
    wrong = subprocess.run(
        [*command, "--config", str(project), "--set", "seed"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    helped = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )

    assert wrong.returncode == 2
    assert "reverie validate --config config" in helped.stdout
