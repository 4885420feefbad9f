"""Several runs that differ by their seed, in one line each."""

from pathlib import Path
from statistics import mean, stdev

from d2r_fast.engine.files import write_atomic
from d2r_fast.engine.marker import dump
from d2r_fast.recognition.training.run_folder import read_metrics

SEEDS = "seeds.json"


def report_seeds(out: Path, runs: list[Path]) -> None:
    """Write and print mean and sample standard deviation (ddof 1) of the accuracies of each run's best epoch."""
    found = {run.name: best_accuracies(run) for run in runs}
    sets = [name for name in found[runs[0].name] if all(name in values for values in found.values())]
    columns = {name: [values[name] for values in found.values()] for name in sets}
    summary = {
        name: {"mean": mean(column), "std": stdev(column), "runs": column} for name, column in columns.items()
    }
    write_atomic(out / SEEDS, dump({"runs": list(found), "accuracy": summary}))
    for name, column in columns.items():
        print(f"{name}: {100 * mean(column):.2f} +- {100 * stdev(column):.2f} over {len(runs)} seeds")
    if not columns:
        print(
            f"trained {len(runs)} seeds into {out}; `d2r-fast evaluate {out} --benchmarks ...` compares them"
        )


def best_accuracies(run: Path) -> dict[str, float]:
    """Accuracy by set, and their mean, of the run's best epoch; empty where none was measured."""
    lines = [line for line in read_metrics(run) if "accuracies" in line]
    if not lines:
        return {}
    best = max(lines, key=lambda line: line["accuracy"])
    return {**best["accuracies"], "mean": best["accuracy"]}
