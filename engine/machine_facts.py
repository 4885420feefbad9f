"""What a long run needs of a machine beside its networks: disk, limits, locks, and the optional packages of the data
plane, looked up without importing any of them.
"""

import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from d2r_fast.engine.errors import RunError
from d2r_fast.engine.folder_lock import take_lock

LEAST_OPEN_FILES = 1024
"""A run of one device has some hundred open; workers of Ray and decoders share the limit of their process alone."""
_GIB = 2**30
_EXTRAS = (
    ("DALI", r"nvidia-dali-cuda\d+", "nvidia.dali", "gpu"),
    ("nvImageCodec", r"nvidia-nvimgcodec-cu\d+", "nvidia.nvimgcodec", "gpu"),
    ("Ray", r"ray", "ray", "ray"),
    ("TensorRT", r"tensorrt", "tensorrt", "gpu"),
    ("TensorRT-RTX", r"tensorrt[-_]rtx", "tensorrt_rtx", "tensorrt-rtx"),
)
"""Package, its distribution's name, its module, and the extra that brings it."""


def disk_facts(folder: Path) -> dict[str, str]:
    """Room, files and locks of the disk that `folder` is on."""
    space, files = shutil.disk_usage(folder), os.statvfs(folder)
    return {
        "free disk here": f"{space.free / _GIB:.1f} of {space.total / _GIB:.1f} GiB",
        "free files here": f"{files.f_favail:,} of {files.f_files:,}" if files.f_files else "no fixed number",
        "locks here": say_locks(folder),
    }


def say_locks(folder: Path) -> str:
    """Whether the disk has the locks that keep two runs out of one folder: tried in a folder that is then deleted."""
    try:
        with tempfile.TemporaryDirectory(prefix=".d2r-fast-doctor-", dir=folder) as trial:
            os.close(take_lock(Path(trial)))
    except RunError as error:
        return f"none: {error}"
    except OSError as error:
        return f"not tried: nothing can be written here ({error.strerror})"
    return "work"


def limit_facts() -> dict[str, str]:
    """Limits of this process that its workers inherit, and the memory that processes share."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < LEAST_OPEN_FILES
    advice = f"; few: `ulimit -n {LEAST_OPEN_FILES}` or more" if few else ""
    file_bytes = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return {
        "open files": f"{_limit(soft)}, can be raised to {_limit(hard)}{advice}",
        "largest file": "no limit" if file_bytes == resource.RLIM_INFINITY else f"{file_bytes:,} bytes",
        "shared memory": _shared_memory(),
    }


def package_facts() -> Iterator[tuple[str, str]]:
    """Versions of the optional packages, and what brings the missing ones."""
    installed = {
        distribution.name.lower(): distribution.version
        for distribution in importlib.metadata.distributions()
        if distribution.name
    }
    for package, pattern, module, extra in _EXTRAS:
        names = [name for name in installed if re.fullmatch(pattern, name)]
        if not names:
            yield package, f"not installed: pip install 'd2r-fast[{extra}]'"
        elif not _is_there(module):
            yield package, f"{names[0]} is installed and its module {module} is not there: reinstall it"
        else:
            yield package, ", ".join(f"{installed[name]} ({name})" for name in names)


def driver_fact() -> str:
    """NVIDIA's driver, which everything on a GPU goes through, and the CUDA version that it runs up to."""
    from d2r_fast.engine.backends.cuda import driver

    try:
        version = driver()
    except OSError:
        return "none: no GPU here, or no driver for it"
    if not version:
        return "does not answer: see nvidia-smi"
    return f"runs CUDA {version // 1000}.{version % 1000 // 10}"


def nccl_fact() -> str:
    """What processes that train one network talk through on GPUs."""
    import torch

    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        return "not in this torch: several GPUs cannot train one network; generate and translate need none"
    version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return ".".join(map(str, version if isinstance(version, tuple) else (version,)))


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _limit(value: int) -> str:
    return "any number" if value == resource.RLIM_INFINITY else f"{value:,}"


def _shared_memory() -> str:
    path = Path("/dev/shm")
    if not path.is_dir():
        return "no /dev/shm"
    space = shutil.disk_usage(path)
    return f"{space.free / _GIB:.1f} of {space.total / _GIB:.1f} GiB free"
