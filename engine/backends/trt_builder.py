"""A process that builds one TensorRT engine: it may run out of memory or crash, and only it is gone.

    python -m d2r_fast.engine.backends.trt_builder < task.json > build.log

The task names the library (tensorrt or tensorrt_rtx), the ONNX, the plan to write, targets (SM89, ...), the
three shapes of each input, and for tensorrt the timing cache, which is kept and grows. What the builder says
goes to the log; the exit status is 0 where the plan is there.
"""

import ctypes
import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from d2r_fast.engine.files import write_atomic

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


def main() -> int:
    """Does the task on standard input; returns the exit status."""
    die_with_parent()
    task = json.load(sys.stdin)
    if os.getppid() != task["parent"]:
        return 1
    library = import_module(task["library"])
    logger = library.Logger(library.Logger.INFO)
    builder = library.Builder(logger)
    network = builder.create_network(_network_flags(library))
    parser = library.OnnxParser(network, logger)
    if not parser.parse_from_file(task["onnx"]):
        for index in range(parser.num_errors):
            print(f"[E] {parser.get_error(index)}".replace("\n", " "))
        return 1
    config = builder.create_builder_config()
    config.clear_flag(library.BuilderFlag.TF32)  # on by default, and fp32 is to be fp32
    config.add_optimization_profile(_profile(builder, task["shapes"]))
    _aim(library, config, task["targets"])
    cache = _use_timing_cache(config, task["timing_cache"])
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        print("[E] the builder returned no engine")
        return 1
    Path(task["plan"]).write_bytes(plan)
    if cache is not None:
        write_atomic(Path(task["timing_cache"]), bytes(config.get_timing_cache().serialize()))
    return 0


def die_with_parent() -> None:
    """Has Linux end this process when the one that started it ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _network_flags(library: Any) -> int:
    """Strongly typed: the only kind from TensorRT 11 on, and what has to be asked for in 10."""
    kinds = library.NetworkDefinitionCreationFlag
    return 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0


def _profile(builder: Any, shapes: dict[str, list[list[int]]]) -> Any:
    profile = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in shapes.items():
        profile.set_shape(name, smallest, usual, largest)
    return profile


def _aim(library: Any, config: Any, targets: list[str]) -> None:
    """Sets the compute capabilities to build for, which TensorRT for RTX alone takes."""
    if not targets:
        return
    config.num_compute_capabilities = len(targets)
    for index, name in enumerate(targets):
        if not config.set_compute_capability(getattr(library.ComputeCapability, name), index):
            raise ValueError(f"{library.__name__} {library.__version__} does not build for {name}")


def _use_timing_cache(config: Any, file: str | None) -> Any:
    if file is None:
        return None
    path = Path(file)
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):  # of another card: begin a new one
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


if __name__ == "__main__":
    sys.exit(main())
