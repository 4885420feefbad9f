"""`d2r-fast doctor`: what this machine can build and run, in which precision, and why not.

A package that is broken is what a doctor is called for: each finding is made on its own, and one that cannot be made
says what stood in its way.
"""

import importlib.metadata
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import d2r_fast
from d2r_fast.engine.backends import BACKENDS, find_backend
from d2r_fast.engine.machine_facts import disk_facts, driver_fact, limit_facts, nccl_fact, package_facts
from d2r_fast.engine.processor import processor

if TYPE_CHECKING:
    from d2r_fast.engine.backends.spec import Backend

PACKAGES = ("torch", "diffusers", "transformers", "onnxruntime", "numpy", "pyarrow", "webdataset", "mtcnn")
OPTIONAL = ("openvino", "triton", "onnxruntime-gpu")
PLACES = {
    "openvino": ("cpu",),
    "tensorrt": ("cuda",),
    "tensorrt-rtx": ("cuda",),
    "onnxruntime-tensorrt": ("cuda",),
}
"""Where a backend runs at all, if not on both."""


def examine() -> int:
    """Print the findings, one `name: value` line each."""
    for name, value in findings().items():
        print(f"{name}: {value}")
    return 0


def findings() -> dict[str, str]:
    """What was found, by name."""
    return {
        "d2r-fast": d2r_fast.__version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "optional packages": ", ".join(f"{name} {_version(name)}" for name in OPTIONAL),
        **dict(package_facts()),
        "processor": _told(_processor),
        "instructions": ", ".join(processor()[1]) or "none that matter",
        "cards": _told(_cards),
        "driver": _told(driver_fact),
        "NCCL": _told(nccl_fact),
        **disk_facts(Path.cwd()),
        **limit_facts(),
        **_backends(),
        "recogniser on cpu": _told(_recogniser_cpu),
        "recogniser on cuda": _told(_recogniser_cuda),
    }


def _backends() -> dict[str, str]:
    return {
        f"backend {name} on {place}": _told(partial(say_backend, name, place)) for name, place in _pairs()
    }


def _told(find: Callable[[], str]) -> str:
    """The finding, or why it cannot be made."""
    try:
        return find()
    except Exception as error:  # whatever a broken library raises is what the person came to hear
        lines = str(error).strip().splitlines() or ["no reason given"]
        return f"cannot be told: {type(error).__name__}: {lines[0]}"


def _processor() -> str:
    import torch

    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{processor()[0]}, {cores} cores usable, {torch.get_num_threads()} threads, {memory_gib:.1f} GiB memory"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _pairs() -> list[tuple[str, str]]:
    return [(name, place) for name in BACKENDS for place in PLACES.get(name, ("cpu", "cuda"))]


def say_backend(name: str, place: str) -> str:
    """Whether the backend runs on "cpu" or "cuda" here, in which precisions, and whether it builds."""
    import torch

    from d2r_fast.engine.backends.spec import DTYPES

    backend = find_backend(name)
    device = "cuda:0" if place == "cuda" and torch.cuda.is_available() else place
    why_not = backend.why_not(device)
    if why_not is not None:
        ahead = _ahead_of_time(backend)
        return f"{ahead}does not run: {why_not}"
    refused = {precision: backend.why_not_precision(precision, device) for precision in DTYPES}
    offered = [precision for precision, reason in refused.items() if reason is None]
    parts = [f"runs in {', '.join(offered)}"]
    parts += [f"not in {precision}: {reason}" for precision, reason in refused.items() if reason is not None]
    no_build = backend.why_not_build(device, ())
    return "; ".join([*parts, *([f"does not build: {no_build}"] if no_build else [])])


def _ahead_of_time(backend: "Backend") -> str:
    """What a backend that does not run here can build for elsewhere."""
    from d2r_fast.engine.backends.trt import TensorRT

    if not isinstance(backend, TensorRT) or backend.why_not_build("cuda", ()) is not None:
        return ""
    return f"builds ahead of time for {', '.join(backend.targets())}, "


def _cards() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none that torch can use"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _recogniser_cpu() -> str:
    import onnxruntime

    return f"runs on onnxruntime {onnxruntime.__version__}"


def _recogniser_cuda() -> str:
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" in providers:
        return "onnxruntime offers it"
    return f"does not run: onnxruntime has {', '.join(providers)} alone; install onnxruntime-gpu in its place"
