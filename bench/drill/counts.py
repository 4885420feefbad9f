"""Whether every image that was asked for has one fate, in the markers, the tables and the tar alike.

Read by the formats' own libraries, not by ours.
"""

import json
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard, make_models, make_renders

FATES = ("written", "rejected", "failed")


def drill(yard: Yard) -> list[Outcome]:
    """A generated dataset with every fate; the translated one of the inputs' drill is counted there."""
    return [generated(yard, num_identities=4 if yard.quick else 40)]


def generated(yard: Yard, *, num_identities: int) -> Outcome:
    """Generates with an early look that gives up about half, and an identity in five that has no usable render."""
    renders, models, out = (yard.folder / name for name in ("renders", "models", "out"))
    make_models(models)
    make_renders(renders, num_identities=num_identities, images=4)
    for identity in sorted(renders.iterdir())[::5]:
        for image in identity.iterdir():
            image.write_bytes(b"")
    ended = yard.run([
        "generate", str(renders), "--models", str(models), "--out", str(out), "--preset", "smoke", "--device", "cpu",
        "--images-per-identity", "6", "--early-reject", "2", "0.0", "--attempts", "1", "--shards", "all",
        "--backend", "torch",
    ])  # fmt: skip
    problems = account(out, wanted=6 * num_identities)
    fates = _fates(out)
    every = all(fates[name] for name in FATES)
    return Outcome(
        fault="images rejected and failed among those written",
        wanted="wanted = written + rejected + failed in markers, tables and tar, no key twice, no member missing",
        found=f"{sum(fates.values())} = {' + '.join(f'{fates[name]} {name}' for name in FATES)}; "
        f"{len(problems)} contradictions" + (f" (first: {problems[0]})" if problems else ""),
        met=ended.status in (0, 3) and not problems and every,
        note=f"generate, mini networks, {num_identities} identities; ended with {ended.status}",
    )


def account(out: Path, *, wanted: int) -> list[str]:
    """What does not add up in a webdataset of `wanted` images."""
    problems, keys = [], Counter[str]()
    total = Counter[str]()
    for path in sorted(out.glob("*_stats.json")):
        number, marker = path.name[:5], json.loads(path.read_bytes())
        table = pq.read_table(out / f"{number}.parquet", use_threads=False).to_pydict()
        fates = Counter(table["status"])
        keys.update(table["key"])
        total["wanted"] += marker["wanted"]
        if marker["wanted"] != sum(marker[name] for name in FATES):
            problems.append(f"{path.name} does not add up")
        if any(marker[name] != fates[name] for name in FATES) or len(table["key"]) != marker["wanted"]:
            problems.append(f"{path.name} counts other images than its table")
        written = [key for key, fate in zip(table["key"], table["status"], strict=True) if fate == "written"]
        members = tar_members(out / f"{number}.tar")
        if list(members) != written:
            problems.append(f"{number}.tar holds other images than the table has written")
        whole = {frozenset(parts) for parts in members.values()}
        if not whole <= {frozenset({"cls", "json", "jpg"}), frozenset({"cls", "json", "png"})}:
            problems.append(f"{number}.tar has an image that lacks a member")
    problems += [f"{key} is there {count} times" for key, count in keys.items() if count > 1]
    if not total["wanted"] == len(keys) == wanted:
        problems.append(f"{wanted} were asked for, markers have {total['wanted']} and tables {len(keys)}")
    return problems


def tar_members(path: Path) -> dict[str, dict[str, bytes]]:
    """Contents of a tar's members by key and ending.

    Raises:
        AssertionError: a member is there twice.
    """
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, ending = member.name.partition(".")
            parts, stream = found.setdefault(key, {}), tar.extractfile(member)
            assert stream is not None, member.name
            assert ending not in parts, f"{member.name} is there twice"
            parts[ending] = stream.read()
    return found


def _fates(out: Path) -> Counter[str]:
    markers = [json.loads(path.read_bytes()) for path in out.glob("*_stats.json")]
    return Counter({name: sum(marker[name] for marker in markers) for name in FATES})
