"""Writing people as parquet files that `datasets` reads: an Image, a ClassLabel, and text.

Schema metadata `huggingface` says which column is which; `datasets` looks there before it guesses. Row groups are a
few MB, so that streaming and random access read little that is not wanted.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from d2r_fast.engine.console import Meter
from d2r_fast.engine.files import check_space, open_atomic
from d2r_fast.engine.formats.contents import contents
from d2r_fast.engine.formats.listing import Entry, Listing, Person
from d2r_fast.engine.formats.named import FEATURES

ROWS_PER_GROUP, GROUP_BYTES = 1_000, 16 << 20
"""A row group ends at the first of them."""
_STARTED_BYTES = 1 << 20


def table_name(shard: int, num_shards: int) -> str:
    """What `datasets` and the Hub expect: split, number, of how many."""
    return f"train-{shard:05d}-of-{num_shards:05d}.parquet"


def write_tables(out: Path, listing: Listing, document: dict[str, Any]) -> None:
    """Write the parquet files that the folder `out` lacks.

    Raises:
        UserError: an image cannot be read.
        RunError: the disk is full.
    """
    plan = document["plan"]
    size, num_shards = plan["identities_per_shard"], plan["num_shards"]
    schema = make_schema([person.name for person in listing.people])
    with Meter("convert", total=plan["wanted"]) as meter:
        for shard in range(num_shards):
            people = dict(enumerate(listing.people[shard * size : (shard + 1) * size], shard * size))
            path = out / table_name(shard, num_shards)
            if not path.exists():
                check_space(out, needed_bytes=_STARTED_BYTES)
                _write(path, people, schema)
            meter.advance(sum(map(len, people.values())))


def make_schema(identities: Sequence[str]) -> pa.Schema:
    """Columns, and what `datasets` is told of them; labels are numbers with the identities as names."""
    text = {"dtype": "string", "_type": "Value"}
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(identities), "_type": "ClassLabel"},
        "identity": text,
        "record": text,
    }
    fields = [
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
        pa.field("label", pa.int64()),
        pa.field("identity", pa.string()),
        pa.field("record", pa.string()),
    ]
    return pa.schema(fields, {FEATURES: json.dumps({"info": {"features": features}}, ensure_ascii=False)})


def _write(path: Path, people: dict[int, Person], schema: pa.Schema) -> None:
    labels = ((label, person.name) for label, person in people.items() for _ in range(len(person)))
    with (
        closing(contents(entry for person in people.values() for entry in person)) as found,
        open_atomic(path) as file,
        pq.ParquetWriter(
            file, schema, version="2.6", compression="zstd", data_page_version="1.0",
            use_dictionary=["identity"], write_statistics=["label", "identity"],
        ) as writer,
    ):  # fmt: skip
        rows = ((*label, entry, data) for label, (entry, data) in zip(labels, found, strict=True))
        while group := list(_group(rows)):
            columns = [
                [{"bytes": data, "path": entry.name} for _, _, entry, data in group],
                [label for label, *_ in group],
                [identity for _, identity, *_ in group],
                [entry.record for _, _, entry, _ in group],
            ]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=len(group))


def _group(rows: Iterator[tuple[int, str, Entry, bytes]]) -> Iterator[tuple[int, str, Entry, bytes]]:
    """The next rows, as many as one group has."""
    num_bytes = 0
    for row in islice(rows, ROWS_PER_GROUP):
        yield row
        num_bytes += len(row[3])
        if num_bytes >= GROUP_BYTES:
            return
