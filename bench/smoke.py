"""A first look at a machine with a card: what runs there, whether it draws what the CPU draws, how fast it is.

    python -m d2r_fast.bench.smoke --save bench/results                       # on a card, in 25 minutes
    python -m d2r_fast.bench.smoke --device cpu --size mini --budget-s 60     # the dry run, anywhere

Every backend that runs there makes a small dataset with mini models, in float32 and in its default arithmetic;
torch in float32 on the CPU says what should come out. Images that are drawn without their neighbours must come
out the same to the last bit. Then come the tests that need a card, and `d2r-fast bench all` in the time that is
left. A part that fails costs no other; the exit status is 1 if any did.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2r_fast.bench.baselines import psnr
from d2r_fast.bench.config import SECTIONS, BenchConfig
from d2r_fast.bench.context import BACKENDS
from d2r_fast.bench.measure import Budget
from d2r_fast.bench.run import make_models, run_bench
from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.backends.network import first_line
from d2r_fast.engine.config import GenerateConfig, smoke
from d2r_fast.engine.device import find_device
from d2r_fast.engine.doctor import findings
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import disk_errors
from d2r_fast.engine.pipeline import generate
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.engine.samples import draw_samples

LEAST_COSINE = 0.995
"""Of the embeddings of an image and of the one that torch draws in float32 on the CPU."""
TESTS = Path(__file__).resolve().parents[1] / "tests"
"""Where a checkout has them."""
Images = dict[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Look:
    """One thing that was tried: whether it is as it should be, and what was seen."""

    name: str
    fine: bool
    seen: str

    def __str__(self) -> str:
        return f"{'fine' if self.fine else 'WRONG'}: {self.name}: {self.seen}"


@dataclass(frozen=True)
class Studio:
    """Where datasets are drawn, always of the same people from the same noise."""

    folder: Path
    models: Path
    device: str

    def draw(self, name: str, **changes: Any) -> Images:
        """Makes a dataset; its crops (112, 112, 3) by path."""
        out = self.folder / name
        settings = smoke() | {
            "source": self.folder / "renders", "models": self.models, "out": out, "engines": self.folder / "engines",
            "identities": 2, "images_per_identity": 4, "format": "imagefolder", "image_format": "png",
        }  # fmt: skip
        status = generate(GenerateConfig(**settings | changes))
        assert status == 0, f"generate ended with status {status}"
        return {
            str(path.relative_to(out)): np.asarray(Image.open(path)) for path in sorted(out.glob("*/*.png"))
        }


def run_smoke(device: str, *, size: str, budget_s: float, save: Path | None) -> int:
    """Looks at everything, and prints it.

    Args:
        device: cpu, cuda or cuda:N.
        size: of the networks that are timed, mini or full.
        budget_s: seconds for everything.
        save: folder for the benchmark's results.

    Returns:
        0, or 1 if anything was not as it should be.
    """
    budget = Budget(budget_s)
    device = find_device(device)
    if save is not None:
        with disk_errors(save):
            save.mkdir(parents=True, exist_ok=True)
    print("\n".join(f"{name}: {value}" for name, value in findings().items()), flush=True)
    looks = []
    with tempfile.TemporaryDirectory(prefix="d2r-fast-smoke-") as folder:
        for look in look_at_everything(Path(folder), device, size=size, budget=budget, save=save):
            looks.append(look)
            print(look, flush=True)
    print("\n".join(map(str, looks)))
    return 0 if all(look.fine for look in looks) else 1


def look_at_everything(
    folder: Path, device: str, *, size: str, budget: Budget, save: Path | None
) -> Iterator[Look]:
    """The backends, the tests, the benchmark, each whatever became of the others."""
    try:
        yield from look_at_backends(folder, device)
    except Exception as error:  # the models or the reference: nothing to compare with
        yield Look("backends", False, describe(error))
    yield attempt("tests that need a card", run_tests)

    def run() -> tuple[bool, str]:
        values = {"size": size, "device": device, "budget_s": max(budget.left_s, 1.0), "save": save}
        status = run_bench(SECTIONS, BenchConfig.model_validate(values))
        return status == 0, f"exit status {status}"

    yield attempt("bench all", run)


def look_at_backends(folder: Path, device: str) -> Iterator[Look]:
    """Every backend that runs there, in each arithmetic."""
    studio = Studio(folder, make_models(folder / "models", "mini"), device)
    draw_samples(folder / "renders")
    wanted = studio.draw("wanted", backend="torch", dtype="float32", device="cpu")
    recogniser = Recogniser.load(studio.models / "antelopev2" / "arcface.onnx")
    for backend in BACKENDS:
        why_not = find_backend(backend).why_not(device)
        if why_not is not None:
            yield Look(backend, True, f"left out: {why_not}")
            continue
        for dtype in ("float32",) if device == "cpu" else ("float32", "float16"):
            name = f"{backend} in {dtype}"
            yield attempt(name, partial(compare, studio, backend, dtype, wanted, recogniser))


def compare(
    studio: Studio, backend: str, dtype: str, wanted: Images, recogniser: Recogniser
) -> tuple[bool, str]:
    """What a backend draws against what is wanted, and against what it draws of one person alone."""
    settings = {"backend": backend, "dtype": dtype, "device": studio.device, "recogniser_device": "cpu"}
    drawn = studio.draw(f"{backend}-{dtype}", **settings)
    alone = studio.draw(f"{backend}-{dtype}-alone", **settings, identities=1)
    if list(drawn) != list(wanted):
        return False, f"made {sorted(drawn)}, wanted are {sorted(wanted)}"
    ours, theirs = (np.stack(list(images.values())) for images in (drawn, wanted))
    cosine = float(cosines(recogniser(ours), recogniser(theirs)).min())
    same = all(np.array_equal(image, drawn[path]) for path, image in alone.items())
    seen = f"least cosine {cosine:.5f}, {psnr(ours, theirs):.1f} dB, "
    return cosine >= LEAST_COSINE and same, seen + ("the same alone" if same else "NOT the same alone")


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the angles between rows (N, D) of two sets."""
    unit = [rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b)]
    found: NDArray[np.float64] = (unit[0] * unit[1]).sum(1)
    return found


def run_tests() -> tuple[bool, str]:
    """The tests marked gpu, where there is a checkout to run them from."""
    if not TESTS.is_dir():
        return True, "left out: this is no checkout"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(TESTS)]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    said = done.stdout.strip() or done.stderr.strip()
    print(said, flush=True)
    return done.returncode == 0, said.splitlines()[-1]


def attempt(name: str, look: Callable[[], tuple[bool, str]]) -> Look:
    """A look that tells of whatever breaks it."""
    try:
        return Look(name, *look())
    except Exception as error:  # whatever it is, the rest is still worth looking at
        return Look(name, False, describe(error))


def describe(error: Exception) -> str:
    """What an error is and says, in one line."""
    return f"{type(error).__name__}: {first_line(error)}"


def main() -> int:
    """Reads the command line; the exit status."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=("mini", "full"), default="full")
    parser.add_argument("--budget-s", type=float, default=1500.0)
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    try:
        return run_smoke(given.device, size=given.size, budget_s=given.budget_s, save=given.save)
    except (UserError, RunError) as error:
        print(f"smoke: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
