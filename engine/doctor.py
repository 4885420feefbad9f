"""`d2r-fast doctor`: what this machine can run, and why not."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

import onnxruntime
import torch

import d2r_fast

PACKAGES = ("torch", "diffusers", "transformers", "onnxruntime", "numpy", "pyarrow", "webdataset", "mtcnn")


def examine() -> int:
    """Print the findings, one `name: value` line each."""
    for name, value in findings().items():
        print(f"{name}: {value}")
    return 0


def findings() -> dict[str, str]:
    """What was found, by name."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "d2r-fast": d2r_fast.__version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
        "processor": f"{len(os.sched_getaffinity(0))} cores usable, {memory_gib:.1f} GiB memory",
        "free disk here": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB",
        "backend torch on cpu": f"runs, {torch.get_num_threads()} threads",
        "backend torch on cuda": _cuda(),
        "recogniser on cpu": "runs",
        "recogniser on cuda": _recogniser_cuda(),
    }


def _cuda() -> str:
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch is built for CUDA {built} but finds no device" if built else "torch is a CPU build"
        return f"does not run: {why}"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"runs on {', '.join(names)}"


def _recogniser_cuda() -> str:
    providers = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" in providers:
        return "onnxruntime offers it"
    return f"does not run: onnxruntime has {', '.join(providers)} alone; install onnxruntime-gpu in its place"
