"""`d2r-fast build-engines` and `open_engine`: engines that are built where they are missing, and opened.

An engine is built in a folder nobody sees, compared with the float32 network, and only then given its name;
its sidecar comes last. Whatever differs from what is wanted is built again, or refused in one line.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from d2r_fast.engine.backends.network import Network, Port
from d2r_fast.engine.batch import rows_of
from d2r_fast.engine.config import Precision
from d2r_fast.engine.console import say
from d2r_fast.engine.engine_file import Built, building, describe, install, refuse, write_sidecar
from d2r_fast.engine.engine_job import Job
from d2r_fast.engine.engine_lock import locked
from d2r_fast.engine.engine_needs import WIDTHS, check_fits, estimate
from d2r_fast.engine.engine_parity import NUM_ROWS, SEED, measure, not_measured
from d2r_fast.engine.engine_record import EngineRecord, Needs, Parity, PortRecord
from d2r_fast.engine.engine_wish import NETWORKS, Wish, expand
from d2r_fast.engine.errors import RunError, UserError

if TYPE_CHECKING:
    from d2r_fast.export.exportable import Exportable
    from d2r_fast.translation.config import MethodName

Engine = Built[EngineRecord]
Expected = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]
DEFAULT_NETWORKS = "unet,vae,encoder,arcface,detector"
GENERATE_BATCH, TRANSLATE_BATCH = 8, 16
"""What --batch-size is by default, there and here."""
BASE_S = 2
EXPORT_S_PER_MODULE = 0.09
EXPORT_S_PER_GIGAPARAMETER = 30
FLOPS_PER_THREAD = 5e10
"""What a build takes beside the backend's own seconds, for the estimate beforehand: measured on two cores."""


def build_engines(
    models: Path | None,
    out: Path,
    *,
    backend: str,
    precision: Precision,
    batch_size: int | None = None,
    networks: str | None = None,
    height: int | None = None,
    width: int | None = None,
    lora: bool = False,
    recogniser: Path | None = None,
    targets: str = "",
    device: str = "auto",
    method: "MethodName | None" = None,
    weights: Path | None = None,
    size: int | None = None,
    w: float | None = None,
) -> int:
    """Builds what is missing or differs in an engines folder; prints one line per network.

    Args:
        models: model folder; None where a translation method's networks are to be built.
        out: engines folder, made if need be.
        backend, precision, height, width, lora, recogniser, device: see `Wish`.
        batch_size: rows of the UNet on CUDA, 8 if None; other networks get theirs by `rows_of`. Of a method, images of
            one run, 16 if None.
        networks: of a model folder, comma-separated; detector stands for pnet, rnet and onet. None: DEFAULT_NETWORKS.
        targets: comma-separated compute capabilities, as sm89; for tensorrt-rtx.
        method, weights, size, w: of a method, as `translate` takes them; height and width are its images'.

    Returns:
        The exit status, 0.

    Raises:
        UserError: something of this is not there or does not fit.
        RunError: a build failed, or is not accurate enough; finished engines are kept.
    """
    capabilities = tuple(target.strip() for target in targets.split(",") if target.strip())
    wish = Wish(backend=backend, precision=precision, device=device, targets=capabilities)
    if method is None:
        _refuse("without --method", {"weights": weights, "size": size, "w": w})
        if models is None:
            raise UserError("nothing to build: give --models, or --method and --weights")
        wish = replace(
            wish, batch_size=batch_size or GENERATE_BATCH, height=height, width=width, lora=lora,
            recogniser=recogniser,
        )  # fmt: skip
        return _build_models(models, out, expand(DEFAULT_NETWORKS if networks is None else networks), wish)
    unused = {"models": models, "lora": lora or None, "recogniser": recogniser, "networks": networks}
    _refuse(f"with --method {method}", unused)
    from d2r_fast.translation.engines import open_for_building

    root, exportables = open_for_building(
        out, method=method, weights=weights, size=size, height=height, width=width, w=w
    )
    return _build_method(root, exportables, replace(wish, batch_size=batch_size or TRANSLATE_BATCH))


def _refuse(where: str, given: Mapping[str, object]) -> None:
    """Raises UserError for the first option that has a value and no use here."""
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--{name} {where}: leave one of them out")


def _build_models(models: Path, out: Path, names: tuple[str, ...], wish: Wish) -> int:
    wish = wish.checked(names)
    for name in names:
        with locked(out):
            rows = rows_of(name, wish.batch_size)
            _bring_up(Job.open(name, models, out, replace(wish, batch_size=rows)))
    return 0


def _build_method(root: Path, networks: Sequence["Exportable"], wish: Wish) -> int:
    wish = wish.checked([network.name for network in networks])
    jobs = [
        Job(network, root, replace(wish, batch_size=rows_of(network.name, wish.batch_size)))
        for network in networks
    ]
    for job in jobs:
        job.backend.target(job.spec)  # one that cannot be built is said before minutes go into another
    for job in jobs:
        with locked(root):
            _bring_up(job)
    return 0


def _bring_up(job: Job) -> None:
    """Builds an engine that is missing or differs, and prints its line. The caller holds the folder's lock."""
    found = job.find()
    if isinstance(found, Built):
        print(_line(found, "up to date"))
    else:
        print(_line(build_engine(job)[0], "built"))


def open_engine(
    name: str,
    models: Path,
    *,
    engines: Path,
    backend: str,
    precision: Precision,
    device: str,
    batch_size: int,
    height: int | None = None,
    width: int | None = None,
    lora: bool = False,
    recogniser: Path | None = None,
    build: bool = True,
) -> Network:
    """A network of a model folder, ready to run, from its engine; one that is missing or differs is built.

    Args:
        name: unet, vae, encoder, arcface, pnet, rnet or onet.
        models: model folder.
        engines: engines folder.
        backend, precision, device, batch_size, height, width, lora, recogniser: see `Wish`.
        build: whether a missing engine may be built; else it is refused.

    Raises:
        UserError: something of this is not there or does not fit; what differs, where `build` is False.
        RunError: the build or the loading failed, or the network does not fit into memory.
    """
    assert name in NETWORKS, name
    wish = Wish(
        backend=backend, precision=precision, device=device, batch_size=batch_size, height=height, width=width,
        lora=lora, recogniser=recogniser,
    ).checked([name])  # fmt: skip
    return _open(Job.open(name, models, engines, wish), build=build)


def open_exportable(
    network: "Exportable",
    *,
    engines: Path,
    backend: str,
    precision: Precision,
    device: str,
    batch_size: int,
    build: bool = True,
) -> Network:
    """As `open_engine`, for a network that belongs to no model folder.

    Raises:
        UserError, RunError: as there.
    """
    wish = Wish(backend=backend, precision=precision, device=device, batch_size=batch_size)
    return _open(Job(network, engines, wish.checked([network.name])), build=build)


def _open(job: Job, *, build: bool) -> Network:
    found = job.find()
    if isinstance(found, Built):
        return load_engine(job, found)
    if not build:
        raise refuse(found)
    with locked(job.root):
        found = job.find()
        if isinstance(found, str):
            found, network = build_engine(job)
            if network is not None:
                return network
    return load_engine(job, found)


def build_engine(job: Job) -> tuple[Engine, Network | None]:
    """Builds an engine, compares it with the float32 network, installs it. The caller holds the folder's lock.

    Returns:
        The engine, and the network as it was opened for the comparison; None if it cannot run here.

    Raises:
        UserError, RunError: as `build_engines`.
    """
    spec, backend = job.spec, job.backend
    reason = backend.why_not_build(spec.device, spec.targets)
    if reason is not None:
        raise UserError(f"backend {spec.backend}: {reason}")
    needs = estimate(job.network, precision=spec.precision, fused=backend.fuses_attention)
    _say_cost(job, needs)
    _check_memory(job, needs, copies=backend.build_copies)
    started_s = time.monotonic()
    expected = backend.why_not(spec.device) or _reference(job)
    with building(job.sidecar) as folder:
        backend.build(spec, job.source, folder)
        job.onnx_is_there()
        built = [path for path in sorted(folder.iterdir()) if path.suffix != ".log"]
        own = describe(job.root, job.sidecar, built)
        shared = job.source.onnx_files if backend.loads_onnx else {}
        paths = {name: job.root / name for name in shared} | dict(zip(own, built, strict=True))
        network, parity = _try_out(job, paths, expected)
        record = EngineRecord(
            key=job.key, files=shared | own, build_s=round(time.monotonic() - started_s, 2),
            inputs=[_port(port) for port in spec.inputs], outputs=[_port(port) for port in spec.outputs],
            parity=parity, needs=needs,
        )  # fmt: skip
        install(folder, job.sidecar, record)
    return Built(job.root, job.sidecar, record), network


def _try_out(job: Job, files: dict[str, Path], expected: Expected | str) -> tuple[Network | None, Parity]:
    """The network opened from files that are not installed yet, compared with what is expected, or why not."""
    spec = job.spec
    if isinstance(expected, str):
        return None, not_measured(expected, precision=spec.precision)
    network = job.backend.load(spec, files, job.source)
    return network, measure(network, *expected, backend=spec.backend, precision=spec.precision)


def load_engine(job: Job, engine: Engine) -> Network:
    """Opens an engine that `Job.find` found, after reading all its files once.

    An engine that could not run where it was built is compared now; if it is not accurate its sidecar is deleted.

    Raises:
        UserError: a file is damaged, or the backend does not take it.
        RunError: it does not fit into memory, or fails, or is not accurate.
    """
    spec, record = job.spec, engine.record
    reason = job.backend.why_not(spec.device)
    if reason is not None:
        raise UserError(f"backend {spec.backend}: {reason}")
    damage = engine.damage(thorough=True)
    if damage is not None:
        raise refuse(damage)
    _check_memory(job, record.needs, copies=job.backend.build_copies if job.backend.loads_onnx else 1)
    network = job.backend.load(spec, engine.files, job.source)
    if record.parity.worst is None:
        try:
            parity = measure(network, *_reference(job), backend=spec.backend, precision=spec.precision)
        except RunError:
            engine.sidecar.unlink(missing_ok=True)
            raise
        write_sidecar(engine.sidecar, record.model_copy(update={"parity": parity}))
    return network


def _reference(job: Job) -> Expected:
    """Random inputs and what the float32 network makes of them."""
    inputs = job.network.random_inputs(NUM_ROWS, seed=SEED)
    return inputs, job.network.reference(inputs)


def _check_memory(job: Job, needs: Needs, *, copies: float) -> None:
    """See that the network fits where it is to run, and that many copies of its weights where it is compiled.

    Raises:
        RunError: they do not.
    """
    spec = job.spec
    if spec.device == "cpu":
        check_fits(needs, name=spec.name, device="cpu", num_rows=torch.get_num_threads(), copies=copies)
        return
    if copies > 1:
        check_fits(needs, name=spec.name, device="cpu", num_rows=0, copies=copies)
    if job.backend.why_not(spec.device) is None:
        check_fits(needs, name=spec.name, device=spec.device, num_rows=spec.batch_size)


def _say_cost(job: Job, needs: Needs) -> None:
    """Says what a build will take, and sees that the disk has it.

    Raises:
        RunError: it has not.
    """
    spec, backend = job.spec, job.backend
    num_weights = needs.weights_bytes // WIDTHS[spec.precision]
    num_modules = sum(1 for _ in job.network.module.modules())
    seconds = BASE_S + num_weights / 1e9 * backend.seconds_per_gigaparameter
    seconds += num_modules * backend.seconds_per_module
    if backend.why_not(spec.device) is None:
        seconds += 2 * NUM_ROWS * needs.row_flops / (FLOPS_PER_THREAD * torch.get_num_threads())
    onnx_precision = backend.onnx_precision(spec.precision)
    num_bytes = 0 if backend.loads_onnx or onnx_precision is None else needs.weights_bytes
    if onnx_precision is not None and job.key["onnx_sha256"] is None:
        num_bytes += num_weights * WIDTHS[onnx_precision]
        seconds += num_modules * EXPORT_S_PER_MODULE + num_weights / 1e9 * EXPORT_S_PER_GIGAPARAMETER
    say(
        f"{spec.name}: building for {spec.backend} in {spec.precision}, about {seconds:.0f} s and "
        f"{num_bytes / 1e6:,.0f} MB of disk ({num_weights / 1e6:.1f} million weights)"
    )
    free, wanted = shutil.disk_usage(job.root).free, int(num_bytes * 1.1)
    if free < wanted:
        raise RunError(
            f"{job.root} has {free:,} bytes free and the {spec.name} engine needs {wanted:,}: free some space, then "
            "run the same command again"
        )


def _line(engine: Engine, verb: str) -> str:
    record = engine.record
    took = f" in {record.build_s:.1f} s" if verb == "built" else ""
    parity = record.parity
    accuracy = (
        f"relative L2 error {parity.worst:.1e}, allowed {parity.limit:.0e}"
        if parity.worst is not None
        else f"accuracy measured {parity.where}"
    )
    return f"{record.key['network']}: {verb}{took}, {record.num_bytes / 1e6:,.1f} MB, {accuracy}"


def _port(port: Port) -> PortRecord:
    return PortRecord(name=port.name, dtype=str(port.dtype).removeprefix("torch."), shape=list(port.shape))
