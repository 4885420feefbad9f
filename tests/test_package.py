"""What people install: the distributions hold what the repository holds, and shadow nobody's name."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("engine", "export", "kernels", "bench", "recognition", "translation")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel built from it."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def tracked(*folders: str) -> set[str]:
    """Files that git tracks or would track below these folders."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_wheel_from_sdist_holds_every_file(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        found = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    expected = {f"d2r_fast/{name}" for name in tracked(*PARTS)} | {
        "d2r_fast/__init__.py",
        "d2r_fast/py.typed",
    }
    assert found == expected


def test_sdist_holds_the_tests_and_the_lock(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as sdist:
        found = {name.partition("/")[2] for name in sdist.getnames()}
    assert tracked("tests") <= found
    assert {"README.md", "LICENSE", "Makefile", "requirements.lock"} <= found


@pytest.mark.parametrize("name", PARTS)
def test_top_level_names_are_not_ours(name: str, tmp_path: Path) -> None:
    code = f"import importlib.util; spec = importlib.util.find_spec({name!r}); print(spec and spec.origin)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert str(ROOT) not in done.stdout


def test_kernels_is_no_package_at_the_top() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
