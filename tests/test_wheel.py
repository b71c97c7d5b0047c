"""The wheel holds every package and works where the checkout is not."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import eet

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in ("eet", "pipelines", "tune_spaces", "pyproject.toml", "README.md", "LICENSE"):
        (folder / "source" / name).symlink_to(ROOT / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    run(*pip, "--wheel-dir", folder, folder / "source", cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_it_holds_every_module_and_page_and_the_mark_of_types(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = [ROOT / name for name in ("eet", "pipelines", "tune_spaces")]
    files = {
        path.relative_to(ROOT).as_posix() for package in packages for suffix in ("py", "html") for path in package.rglob(f"*.{suffix}")
    }
    assert {name for name in names if ".dist-info/" not in name} == files | {"eet/py.typed"}
    assert "pipelines/serving/page.html" in files


def test_the_command_line_runs_from_it(wheel, tmp_path):
    """In an environment of its own, which sees the libraries of this one; nothing is downloaded."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "environment", cwd=tmp_path)
    python = tmp_path / "environment" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel, cwd=tmp_path)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = tmp_path / "environment" / "bin" / "eet"
    assert run(command, "--version", cwd=tmp_path).split()[-1] == eet.__version__
    assert "distill" in run(command, "--help", cwd=tmp_path)
    assert run(python, "-c", "import eet; print(eet.__file__)", cwd=tmp_path).strip() == str(site / "eet" / "__init__.py")
