"""What a dataset says of the weights it was translated with: their files, and their licence as far as it is known."""

from pathlib import Path

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.recognition.training.run_folder import RUN
from d2r_fast.translation.checkpoint import weights_file
from d2r_fast.translation.config import MethodName

PUBLIC: dict[MethodName, str] = {
    "codeformer": "S-Lab License 1.0, non-commercial, where these are the released weights",
    "vsait": "unknown: no weights for faces are released; the program is CC BY-NC 4.0",
    "decent": "unknown: no weights for faces are released; the program is BSD",
    "unsb": "unknown: no weights for faces are released; the program is MIT",
    "ddim-inversion": "MIT where these are latent-diffusion's; FFHQ, which those saw, is CC BY-NC-SA 4.0",
    "stylegan-inversion": "MIT for e4e and pSp, NVIDIA Source Code License, non-commercial, for the StyleGAN2 in it",
}
OWN = "that of the images which train-transfer was given"


def describe_weights(method: MethodName, weights: Path) -> tuple[dict[str, dict[str, str]], str]:
    """The files as name -> {"file", "sha256", "licence"}, and whose they are.

    The second value is "trained" for a folder of train-transfer, else "given": a file does not say who released it.

    Raises:
        UserError: nothing there, or a file that cannot be read.
    """
    own = weights.is_dir() and (weights / RUN).is_file()
    licence = OWN if own else PUBLIC[method]
    paths = (
        [weights_file(weights, method=method)]
        if own or weights.is_file()
        else sorted(filter(_counts, weights.rglob("*")))
    )
    try:
        digests = {path: sha256_file(path) for path in paths}
    except OSError as error:
        raise UserError(f"weights {weights} cannot be read ({error.strerror}): check the files") from None
    return {
        method if len(digests) == 1 else f"{method} {path.relative_to(weights).as_posix()}": {
            "file": path.name, "sha256": digest, "licence": licence,
        }
        for path, digest in digests.items()
    }, "trained" if own else "given"  # fmt: skip


def _counts(path: Path) -> bool:
    """Whether a file of a folder is part of the weights: tensors, or what says how they are put together."""
    return path.is_file() and path.suffix in {".safetensors", ".pth", ".bin", ".json"}
