"""What a run costs and what its cluster gives: the inputs of `scaling_simulation`, each with where it comes from.

    python -m d2r_fast.bench.scaling_profile DATASET --like bench/profiles/digi2real.json --out mine.json

makes a profile of a dataset that one worker has made, or has begun to: its plan, its seconds and its bytes are
measured; what the cluster gives stays as in the profile it is like.
"""

import argparse
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from d2r_fast.engine.config import Frozen
from d2r_fast.engine.dataset import read_events
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import check_out, write_atomic
from d2r_fast.engine.marker import DOCUMENT, document_digest, dump, read_document, read_marker


class Input(Frozen):
    """A number, and how it is known."""

    value: Annotated[float, Field(ge=0)]
    how: Literal["planned", "measured", "published", "assumed"]
    note: str


class Profile(Frozen):
    """One dataset on one cluster, of which only the number of GPUs is left open. A worker is a GPU."""

    title: str
    num_shards: Input
    """shards"""
    images_per_shard: Input
    """images in a shard"""
    device_s: Input
    """GPU seconds of an image"""
    host_s: Input
    """core seconds of an image: decode, encode, write"""
    cores_per_gpu: Input
    """cores for each GPU"""
    bytes_in: Input
    """bytes read for an image"""
    operations_in: Input
    """file operations to read for an image"""
    bytes_out: Input
    """bytes written for an image"""
    operations_out: Input
    """file operations to write a shard and its marker"""
    start_s: Input
    """seconds of a worker's start, once its models are read"""
    start_bytes: Input
    """bytes of models that a worker reads when it starts"""
    start_operations: Input
    """file operations of a worker's start: listing the source"""
    storage_bytes_per_s: Input
    """shared storage, bytes/s"""
    storage_operations_per_s: Input
    """shared storage, file operations/s"""
    hand_out_s: Input
    """head node's seconds for a shard"""

    def inputs(self) -> dict[str, Input]:
        """Every input by its name."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "title"}

    @property
    def shard_s(self) -> float:
        """Seconds that a worker alone computes on a shard: GPU and cores work side by side, the slower one counts."""
        core_s = self.host_s.value / self.cores_per_gpu.value if self.cores_per_gpu.value else 0.0
        return self.images_per_shard.value * max(self.device_s.value, core_s)

    @property
    def shard_bytes(self) -> float:
        """Read and written for a shard."""
        return self.images_per_shard.value * (self.bytes_in.value + self.bytes_out.value)

    @property
    def shard_operations(self) -> float:
        """File operations of a shard, read and written."""
        return self.images_per_shard.value * self.operations_in.value + self.operations_out.value


def read_profile(path: Path) -> Profile:
    """The profile in a JSON file.

    Raises:
        UserError: there is none, it is damaged, or it describes nothing that could run.
    """
    try:
        given = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the profile {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"profile {path} is not JSON: give one as in bench/profiles") from None
    if not isinstance(given, dict):
        raise UserError(f"profile {path} is no JSON object: give one as in bench/profiles")
    try:
        profile = Profile(**{name: _input(value) for name, value in given.items()})
    except UserError as error:
        raise UserError(f"profile {path}: {error}") from None
    for name in ("num_shards", "images_per_shard", "storage_bytes_per_s", "storage_operations_per_s"):
        if not getattr(profile, name).value:
            raise UserError(f"profile {path}: {name} = 0: give what there is")
    if profile.num_shards.value % 1 or not profile.shard_s:
        raise UserError(f"profile {path}: give a whole num_shards, and device_s or host_s above 0")
    return profile


def profile_dataset(folder: Path, *, like: Profile) -> Profile:
    """The profile of a dataset that one worker makes, by its log and its markers.

    Device seconds are wall seconds of an image from shard to shard: where reading or writing held the device up, that
    is in them.

    Raises:
        UserError: it is no dataset, or the log has fewer than two shards of one run in a row.
        RunError: a shard that the log names is gone.
    """
    document = read_document(folder)
    spans = list(_spans(folder))
    if not spans:
        raise UserError(f"{folder} has no two shards by one run: make at least three with one worker first")
    seconds, images = sum(span[0] for span in spans), sum(span[1] for span in spans)
    marker = _first_marker(folder, document)
    num_bytes = sum(entry["bytes"] for entry in marker["files"].values()) / max(marker["wanted"], 1)
    shards = document["plan"]["num_shards"]
    note = f"{len(spans)} shards of {folder.resolve().name}"
    measured = {
        "num_shards": Input(value=shards, how="planned", note=DOCUMENT),
        "images_per_shard": Input(value=document["plan"]["wanted"] / shards, how="planned", note=DOCUMENT),
        "device_s": Input(value=seconds / images, how="measured", note=note),
        "bytes_out": Input(value=num_bytes, how="measured", note=f"shard {marker['shard']:05d}"),
    }
    return like.model_copy(update={"title": folder.resolve().name, **measured})


def _input(value: Any) -> Any:
    return Input(**value) if isinstance(value, dict) else value


def _spans(folder: Path) -> list[tuple[float, int]]:
    """Seconds and images of every shard that followed another of its run."""
    spans, last_s = [], None
    for event in read_events(folder):
        if event["event"] == "shard":
            if last_s is not None and event["time"] > last_s and event["images"] > 0:
                spans.append((event["time"] - last_s, event["images"]))
            last_s = event["time"]
        elif event["event"] == "start":
            if event.get("workers", 1) != 1:
                raise UserError(f"{folder} was made by {event['workers']} workers: give one made by one")
            last_s = None
    return spans


def _first_marker(folder: Path, document: dict[str, Any]) -> dict[str, Any]:
    digest = document_digest(document)
    for shard in range(document["plan"]["num_shards"]):
        try:
            return read_marker(folder, shard, format=document["format"], dataset=digest)
        except ValueError:
            continue
    raise RunError(f"{folder} has no finished shard: see `d2r-fast verify {folder}`")


def main() -> None:
    """Write a dataset's profile."""
    parser = argparse.ArgumentParser(prog="scaling_profile", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--like", type=Path, required=True, help="profile whose cluster is meant")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    given = parser.parse_args()
    check_out(given.out)
    profile = profile_dataset(given.dataset, like=read_profile(given.like))
    write_atomic(given.out, dump(profile.model_dump()))


if __name__ == "__main__":
    main()
