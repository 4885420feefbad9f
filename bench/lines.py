"""A benchmark's findings as lines for people."""

from typing import Any

from d2r_fast.bench.context import Bench
from d2r_fast.engine.condition import NUM_TOKENS


def ceiling_lines(bench: Bench) -> list[str]:
    """What this machine could do at best, before anything is measured."""
    height, width = bench.sides
    lines = [f"ceilings, measured on {bench.device}:"]
    lines += [
        f"  {name} matrix products {rate / 1e12:.4g} TFLOP/s"
        for name, rate in bench.rates.flops_per_s.items()
    ]
    lines.append(f"  copy {bench.rates.bytes_per_s / 1e9:.4g} GB/s, read and written")
    lines.append(
        f"work of one row at {height} x {width} pixels, {NUM_TOKENS} tokens, and the least time for it:"
    )
    for name, work in bench.work.items():
        floors = (f"{p} {bench.rates.floor_s(work, p, 1)[0] * 1e3:.4g} ms" for p in bench.rates.flops_per_s)
        lines.append(f"  {name}: {work.flops / 1e12:.4g} TFLOP, {', '.join(floors)}")
    return lines


def section_lines(name: str, section: dict[str, Any]) -> list[str]:
    """A section as a table for people."""
    if section["status"] == "skipped":
        return [f"{name}: skipped, {section['reason']}"]
    lines = [f"{name}: {section['status']} in {section['seconds']} s"]
    if section["status"] == "failed":
        lines.append("  " + section["reason"].strip().splitlines()[-1])
    for row in section["rows"]:
        lines.append("  " + row_line(row))
    for finding in section["findings"]:
        lines.append("  " + finding_line(finding))
    return lines


def row_line(row: dict[str, Any]) -> str:
    """A measurement in one line."""
    parts = [row["name"]]
    if "median_s" in row:
        parts.append(
            f"{row['median_s']:.4g} s ({row['p10_s']:.4g} to {row['p90_s']:.4g}), {row['per_s']:.4g}/s"
        )
    if row.get("of_ceiling") is not None:
        parts.append(f"{row['of_ceiling']:.0%} of the ceiling")
    if row.get("rel_l2") is not None:
        parts.append(f"relative L2 error {row['rel_l2']:.1e}")
    if "reason" in row:
        parts.append(row["reason"])
    return ": ".join([parts[0], ", ".join(parts[1:])])


def finding_line(finding: dict[str, Any]) -> str:
    """A finding in one line."""
    spread = f" ({finding['low']:.4g} to {finding['high']:.4g})" if finding["low"] is not None else ""
    verdict = "met" if finding["met"] else "short"
    wanted = "" if finding["target"] is None else f", wanted {finding['target']:g}: {verdict}"
    note = f"; {finding['note']}" if finding["note"] else ""
    return f"{finding['name']} = {finding['value']:.4g}{finding['unit']}{spread}{wanted}{note}"
