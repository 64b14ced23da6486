"""The wheel and the sdist: complete, equal, and enough for a fresh environment without a compiler."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from relay.cli.commit import COMMIT_FILE, UNKNOWN, commit_of

pytestmark = pytest.mark.slow(4)

ROOT = Path(__file__).parents[2]
BUILD_ONLY = "relay/cli/build_hook.py"
START_TIMEOUT = 20.0
INSTALL_TIMEOUT = 300.0


def run(*command: str | Path, cwd: Path, timeout: float = 60.0) -> str:
    """Run a command without the variables that configure Relay or name its checkout; returns what it printed."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "PYTHON", "COVERAGE"))
    }
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, timeout=timeout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def build(source: Path, folder: Path, *targets: str) -> None:
    """Build in the environment of the tests, which has the build's requirements."""
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, *targets, cwd=source)


def content_of(wheel: Path) -> dict[str, bytes]:
    """Return the files of a wheel, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel and the sdist of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """Return the wheel."""
    [found] = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the commands of a fresh environment with the wheel. A dependency without a wheel fails."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    # By the pip of the tests, and without compiling: most modules of the dependencies are never imported.
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder / "bin/python",
        "install",
        "--quiet",
        "--no-input",
        "--no-compile",
    )
    run(*pip, "--only-binary", ":all:", wheel, cwd=folder, timeout=INSTALL_TIMEOUT)
    return folder / "bin"


def test_the_wheel_has_everything_of_the_package(wheel: Path) -> None:
    """Modules, pages, style sheets and scripts, and the commit; nothing that only a build needs, and nothing else."""
    there = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "relay").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    added = {f"relay/{COMMIT_FILE}"} if commit_of(ROOT) else set()
    assert set(content_of(wheel)) == there - {BUILD_ONLY} | added
    assert {"relay/py.typed", "relay/docs/deploy.md", "relay/docs/style.css"} <= there
    assert wheel.name.endswith("-py3-none-any.whl")


def test_the_sdist_builds_the_same_wheel(dist: Path, wheel: Path, tmp_path: Path) -> None:
    """Outside of a checkout too, with the same commit."""
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    build(source, tmp_path / "again", "-t", "wheel")
    [again] = (tmp_path / "again").glob("*.whl")
    assert content_of(again) == content_of(wheel)


def test_the_version_names_the_commit(programs: Path, tmp_path: Path) -> None:
    """As the build recorded it, because an installation is not a checkout."""
    version = run(programs / "relay", "--version", cwd=tmp_path)
    found = re.fullmatch(r"relay \d+\.\d+\.\d+ \(commit (\S+)\)", version)
    assert found is not None, version
    assert found[1] == (commit_of(ROOT) or UNKNOWN)


def test_the_handbook_is_installed(programs: Path, tmp_path: Path) -> None:
    """Every page of the checkout."""
    listed = run(programs / "relay", "docs", cwd=tmp_path)
    for page in (ROOT / "relay/docs").glob("*.md"):
        assert f"  {page.stem} " in listed
    assert run(programs / "relay", "docs", "deploy", cwd=tmp_path).startswith("# ")


@contextmanager
def serving(programs: Path, folder: Path) -> Iterator[str]:
    """Run `relay serve` in a folder; yields its URL."""
    log = folder / "log"
    environment = {"PATH": os.environ["PATH"], "RELAY_LOG__FORMAT": "json"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [programs / "relay", "serve", "--port", "0"], cwd=folder, env=environment, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not (found := re.search(r'"url":"([^"]+)"', log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


@pytest.mark.sqlite  # the fresh environment has no extra
def test_the_first_minutes(programs: Path, tmp_path: Path) -> None:
    """`relay init`, `relay serve` and a publication, with nothing but the wheel."""
    relay = programs / "relay"
    run(relay, "init", cwd=tmp_path)
    with serving(programs, tmp_path) as url:
        key = run(relay, "keys", "create", "--user", "backend", "--scope", "publish", cwd=tmp_path)
        answer = run(relay, "publish", "market:BTC", '{"price": 1}', "--url", url, "--key", key, cwd=tmp_path)
        assert json.loads(answer)[0]["offset"] == 1
        assert "<h1" in httpx.get(f"{url}/docs/deploy").text
        assert httpx.get(f"{url}/docs/style.css").status_code == 200
