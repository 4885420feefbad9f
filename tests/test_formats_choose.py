"""merge, split and subset: whom they keep, under which labels."""

from pathlib import Path
from typing import Any

import pytest

from d2r_fast.engine.cli import parse
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats.choose import cut, join, pick, read_names
from d2r_fast.engine.formats.listing import Entry, Listing, open_listing
from d2r_fast.engine.verify import verify


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Two folders that share identity 1, whose images 0.png they both have."""
    roots = [tmp_path / "a", tmp_path / "b"]
    for root, names in zip(roots, (("0/0", "1/0", "1/1"), ("1/0", "2/0")), strict=True):
        for name in names:
            path = root / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\x89PNG" + f"{root.name}/{name}".encode())
    return roots


def names_in(listing: Listing) -> dict[str, list[str]]:
    return {person.name: [entry.name for entry in person] for person in listing.people}


def run(*words: Any) -> int:
    return parse(list(map(str, words))).run()


def test_identities_of_one_name_are_asked_about(sources: list[Path]) -> None:
    listings = [open_listing(path) for path in sources]
    with pytest.raises(
        UserError, match=r"identity 1 is in several sources \(1 such names\): say by --same-names"
    ):
        join(listings, same_names="refuse")


def test_merge_joins_or_tells_apart(sources: list[Path], tmp_path: Path) -> None:
    assert (
        run("merge", *sources, "--same-names", "join", "--to", "parquet", "--out", tmp_path / "joined") == 0
    )
    joined = open_listing(tmp_path / "joined")
    assert names_in(joined) == {"0": ["0.png"], "1": ["0.png", "1.png", "2-0.png"], "2": ["0.png"]}
    assert [entry.read()[4:] for entry in joined.people[1]] == [b"a/1/0", b"a/1/1", b"b/1/0"]
    assert (
        run("merge", *sources, "--same-names", "prefix", "--to", "parquet", "--out", tmp_path / "both") == 0
    )
    assert list(names_in(open_listing(tmp_path / "both"))) == ["a-0", "a-1", "b-1", "b-2"]


def test_merge_takes_any_forms_and_carries_what_they_say(sources: list[Path], tmp_path: Path) -> None:
    run("convert", sources[0], "--to", "imagefolder", "--out", tmp_path / "first")
    run("subset", sources[1], "--identities", 2, "--to", "parquet", "--out", tmp_path / "second")
    run("merge", tmp_path / "first", tmp_path / "second", "--same-names", "join", "--out", tmp_path / "out",
        "--to", "imagefolder")  # fmt: skip
    merged = open_listing(tmp_path / "out")
    assert [document["recipe"]["command"] for document in merged.documents[0]["made_from"]] == [
        "convert",
        "subset",
    ]
    assert (tmp_path / "out" / "1" / "2-0.png").read_bytes() == b"\x89PNGb/1/0"


def test_prefixes_must_differ(sources: list[Path]) -> None:
    listing = open_listing(sources[0])
    with pytest.raises(UserError, match="two sources are called a"):
        join([listing, listing], same_names="prefix")


def test_a_name_that_joining_would_give_is_not_given_twice(sources: list[Path], tmp_path: Path) -> None:
    (sources[0] / "1" / "2-0.png").write_bytes(b"\x89PNG")
    people = join([open_listing(path) for path in sources], same_names="join")
    found = [entry.name for entry in people[1]]
    assert len(found) == len(set(found)) == 4


@pytest.mark.parametrize(
    ("num", "parts", "per_part", "sizes"),
    [
        (10, 3, None, [3, 3, 4]),
        (10, None, 4, [4, 4, 2]),
        (3, 3, None, [1, 1, 1]),
        (2, None, 9, [2]),
        (5, 1, None, [5]),
    ],
)
def test_parts_hold_everybody_once(
    num: int, parts: int | None, per_part: int | None, sizes: list[int]
) -> None:
    spans = list(cut(num, parts=parts, per_part=per_part))
    assert [len(span) for span in spans] == sizes
    assert [label for span in spans for label in span] == list(range(num))


def test_more_parts_than_identities_are_refused() -> None:
    with pytest.raises(UserError, match="--parts 4: there are 3 identities"):
        list(cut(3, parts=4, per_part=None))


def test_split_and_merge_give_the_whole(tmp_path: Path, sources: list[Path]) -> None:
    for number in range(3, 6):
        (sources[0] / str(number)).mkdir()
        (sources[0] / str(number) / "0.png").write_bytes(b"\x89PNG" + bytes([number]))
    run("split", sources[0], "--parts", 2, "--out", tmp_path / "parts", "--to", "imagefolder")
    parts = sorted((tmp_path / "parts").iterdir())
    assert [path.name for path in parts] == ["part-00000", "part-00001"]
    run("merge", *parts, "--out", tmp_path / "whole", "--to", "imagefolder")
    assert names_in(open_listing(tmp_path / "whole")) == names_in(open_listing(sources[0]))
    # What is not decodable is kept as it is, and said.
    assert all("cannot be decoded" in problem for problem in verify(tmp_path / "whole").problems)


def test_subset_is_the_first_or_those_that_are_named(sources: list[Path], tmp_path: Path) -> None:
    listing = open_listing(sources[0])
    names, ranking = tmp_path / "names", tmp_path / "ranking.csv"
    names.write_text("1\n0\n")
    ranking.write_text("rank,identity,score,nearest\n0,1,0.1,0\n1,0,0.2,1\n")
    assert [person.name for person in pick(listing, "1")] == ["0"]
    assert [person.name for person in pick(listing, str(names))] == ["1", "0"]
    assert [person.name for person in pick(listing, str(ranking), top=1)] == ["1"]
    run(
        "subset",
        sources[0],
        "--identities",
        names,
        "--images",
        1,
        "--to",
        "parquet",
        "--out",
        tmp_path / "out",
    )
    assert names_in(open_listing(tmp_path / "out")) == {"1": ["0.png"], "0": ["0.png"]}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("0\n7\n", r"names 1 identities that a does not have, such as '7'"),
        ("0\n0\n", r"names '0' more than once"),
        ("\n", "names no identity"),
    ],
)
def test_names_that_are_not_there_are_refused(
    sources: list[Path], tmp_path: Path, text: str, error: str
) -> None:
    path = tmp_path / "names"
    path.write_text(text)
    with pytest.raises(UserError, match=error):
        pick(open_listing(sources[0]), str(path))


def test_numbers_out_of_range_and_no_file_are_refused(sources: list[Path], tmp_path: Path) -> None:
    for number in ("0", "3"):
        with pytest.raises(UserError, match=f"{number} identities of a: it has 2, give 1 to that many"):
            pick(open_listing(sources[0]), number)
    with pytest.raises(UserError, match="is no number and cannot be read"):
        read_names(tmp_path / "absent")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["merge", "a", "--out", "o"], "merge takes two sources or more: 1 given"),
        (["split", "a", "--out", "o"], "split takes --parts or --identities-per-part"),
        (["split", "a", "--parts", "2", "--identities-per-part", "3", "--out", "o"], "give one of them"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        parse(words)


def test_an_entry_reads_its_own_source(sources: list[Path]) -> None:
    people = join([open_listing(path) for path in sources], same_names="join")
    entries: list[Entry] = list(people[1].first(3))
    assert [entry.source.root.name for entry in entries] == ["a", "a", "b"]
    assert len(people[1].first(1)) == 1
