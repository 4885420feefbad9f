"""The `evaluate` command: networks on benchmarks, into tables, curves and a page."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2r_fast.engine.console import say
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.readers.reader import describe_reader, open_reader
from d2r_fast.recognition.embedder import open_embedder
from d2r_fast.recognition.evaluation.config import EvaluateConfig, split_suites
from d2r_fast.recognition.evaluation.crops import SIZE
from d2r_fast.recognition.evaluation.embed_crops import Embed
from d2r_fast.recognition.evaluation.finished import (
    claim,
    digest,
    hold,
    load_result,
    result_path,
    save_result,
    stamp,
)
from d2r_fast.recognition.evaluation.fusion import parse_fusion
from d2r_fast.recognition.evaluation.results import SuiteResult, write_results
from d2r_fast.recognition.evaluation.suites import Settings, Suite, find_suites

SCHEMA = 2
"""Of what decides a result; a change of protocol raises it, and finished results are measured again."""
_SEED = re.compile(r"seed-(\d+)")


def evaluate(config: EvaluateConfig) -> int:
    """Measure a network, or each seed of a run, and write the results; what is finished is not run again.

    Raises:
        UserError: a network, a benchmark or the folder cannot be used.
        RunError: a network fails, the disk is full, or another process is at work in the folder.
    """
    suites = find_suites(config.benchmarks, split_suites(config.suite))
    settings = Settings(
        flip=not config.no_flip,
        fusion=parse_fusion(config.ijb_fusion),
        batch_size=config.batch_size,
        max_unreadable=config.max_unreadable,
        reader=open_reader(
            config.reader, device=find_device(config.device), num_threads=len(os.sched_getaffinity(0))
        ),
    )
    with hold(config.out) as folder:
        digests = {suite.name: digest(suite.files()) for suite in suites}
        stamps = {suite.name: stamp(suite.image_folders()) for suite in suites}
        candidates = open_candidates(config)
        claim(folder, {run: candidate.name for run, candidate in candidates.items()})
        shared = {"schema": SCHEMA, "precision": config.precision, **describe_reader(config.reader)}
        results: dict[str, list[SuiteResult]] = {}
        for run, candidate in candidates.items():
            say(f"evaluating {run or config.network.name}: {candidate.name}")
            results[run] = [
                _measure(
                    suite, candidate.embed, settings, folder,
                    shared | {
                        "network": candidate.name, "files": digests[suite.name], "images": stamps[suite.name],
                    },
                )
                for suite in suites
            ]  # fmt: skip
        write_results(config.out, results, about=_about(config, settings, candidates, digests))
    say(f"results in {config.out}")
    return 0


@dataclass(frozen=True)
class Candidate:
    """A network to be measured; `name` says its files and their digests."""

    name: str
    embed: Embed


def open_candidates(config: EvaluateConfig) -> dict[str, Candidate]:
    """The networks by run: seed-0, seed-1, ... of a run folder of several seeds, else one named "".

    Raises:
        UserError: no network there, or one for crops that are not 112x112.
    """
    return {run: _open(path, config) for run, path in _models(config.network).items()}


def _models(model: Path) -> dict[str, Path]:
    seeds = {path.name: path for path in model.glob("seed-*") if _SEED.fullmatch(path.name)}
    return {name: seeds[name] for name in sorted(seeds, key=lambda name: int(name[5:]))} or {"": model}


def _open(path: Path, config: EvaluateConfig) -> Candidate:
    network = open_embedder(
        path,
        device=find_device(config.device),
        batch_size=config.batch_size,
        precision=config.precision,
    )
    if network.size != (SIZE, SIZE):
        raise UserError(
            f"{network.name} takes crops of {network.size[1]}x{network.size[0]}: benchmarks are crops of "
            f"{SIZE}x{SIZE}, give a network for these"
        )
    sidecar = path.with_suffix(".json")
    if path.suffix != ".onnx" or not sidecar.is_file():
        return Candidate(network.name, network)
    # It says how pixels are normalised, so it decides results as the graph does.
    return Candidate(f"{network.name}, {sidecar.name} {digest([sidecar])[:12]}", network)


def _about(
    config: EvaluateConfig,
    settings: Settings,
    candidates: Mapping[str, Candidate],
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """What was evaluated and how."""
    name = config.network.resolve().name
    about: dict[str, Any] = {
        "name": name,
        "networks": {run or name: candidate.name for run, candidate in candidates.items()},
        "flip": settings.flip,
        "ijb_fusion": str(settings.fusion),
        "precision": config.precision,
        "max_unreadable": settings.max_unreadable,
        "benchmark_sha256": dict(digests),
        **describe_reader(config.reader),
    }
    return about


def _measure(
    suite: Suite, embed: Embed, settings: Settings, folder: Path, decided_by: Mapping[str, Any]
) -> SuiteResult:
    """The finished result, or a new one that is then finished."""
    path = result_path(folder, suite.name, {**decided_by, **suite.decided_by(settings)})
    result = load_result(path, suite.name)
    finished = (
        result is not None
        and result.num_unreadable <= settings.max_unreadable
        and suite.answers(result, settings)
    )
    if result is None or not finished:
        result = suite.measure(embed, settings)
        save_result(path, result)
    result = suite.as_asked(result, settings)
    say(f"{_line(result)}{', finished earlier' if finished else ''}")
    return result


def _line(result: SuiteResult) -> str:
    parts = [f"{result.suite}: {_headline(result)}", f"{result.seconds:.1f} s"]
    if result.num_unreadable:
        parts.insert(1, f"{result.num_unreadable} images left out")
    return ", ".join(parts)


def _headline(result: SuiteResult) -> str:
    if result.accuracy is not None and result.std is not None:
        return f"accuracy {100 * result.accuracy:.2f} % +- {100 * result.std:.2f}"
    rates = [
        f"{far} {'not reached' if tar is None else f'{100 * tar:.2f} %'}"
        for far, tar in result.tar_at_far.items()
    ]
    return f"{result.fusion}, TAR at FAR {', '.join(rates)}"
