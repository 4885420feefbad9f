"""Sources: which folders and files count, in which order, and what is said where nothing does."""

import hashlib
import os
import random
import sys
import time
import unicodedata
from pathlib import Path

import pytest

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.source import Identity, Image, Source, fingerprint, natural_key, open_source


def make(root: Path, *names: str) -> Path:
    """Files at the given relative paths, each holding its own path."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def listing(source: Source) -> dict[str, list[str]]:
    return {identity.name: [image.name for image in identity.images] for identity in source.identities}


def test_identities_and_images_are_in_natural_order(tmp_path: Path) -> None:
    make(tmp_path, "10/0.png", "2/10.png", "2/9.png", "2/1.png", "10a/0.png", "b/0.png", "B/0.png", "1/0.png")
    assert listing(open_source(tmp_path)) == {
        "1": ["0.png"], "2": ["1.png", "9.png", "10.png"], "10": ["0.png"], "10a": ["0.png"], "B": ["0.png"],
        "b": ["0.png"],
    }  # fmt: skip


def test_order_is_total_and_does_not_depend_on_the_start() -> None:
    rng = random.Random(5)
    names = sorted({"".join(rng.choices("01aé٣²-.", k=rng.randint(1, 6))) for _ in range(3000)})
    expected = sorted(names, key=natural_key)
    for _ in range(3):
        rng.shuffle(names)
        assert sorted(names, key=natural_key) == expected
    assert len({natural_key(name) for name in names}) == len(names)


def test_leading_zeros_make_another_identity(tmp_path: Path) -> None:
    make(tmp_path, "1/0.png", "001/0.png", "01/0.png", "2/0.png")
    assert list(listing(open_source(tmp_path))) == ["001", "01", "1", "2"]


def test_names_are_kept_byte_for_byte(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD")] + [
        "李 四",
        "a\nb",
        "Ωmega",
        " x ",
    ]
    make(tmp_path, *(f"{name}/0.png" for name in names))
    assert {os.fsencode(identity.name) for identity in open_source(tmp_path).identities} == set(
        map(os.fsencode, names)
    )


def test_what_is_no_image_is_ignored(tmp_path: Path) -> None:
    kept = ["a.png", "b.JPG", "c.jpeg", "d.WebP", "e.bmp", "f.tif", "g.TIFF", "h.jpg"]
    ignored = [".hidden.png", "notes.txt", "png", "i.gif", "j.png.txt", "k.npy"]
    make(
        tmp_path, "README.md", "LICENSE", "loose.png", ".git/0.png", *(f"x/{name}" for name in kept + ignored)
    )
    (tmp_path / "x" / "folder.png").mkdir()
    os.mkfifo(tmp_path / "x" / "pipe.png")
    assert listing(open_source(tmp_path)) == {"x": kept}


def test_links_are_followed_and_cannot_loop(tmp_path: Path) -> None:
    store = make(tmp_path / "store", "p/0.png")
    root = make(tmp_path / "root", "q/0.png")
    (root / "linked").symlink_to(store / "p")
    (root / "loop").symlink_to(root)
    (root / "q" / "1.png").symlink_to(store / "p" / "0.png")
    (root / "q" / "2.png").symlink_to("nowhere.png")
    (root / "dangling").symlink_to("nowhere")
    source = open_source(root)
    assert listing(source) == {"linked": ["0.png"], "loop": [], "q": ["0.png", "1.png", "2.png"]}
    images = source.identities[2].images
    assert source.read(images[1]) == b"p/0.png"
    with pytest.raises(FileNotFoundError):
        source.read(images[2])


def test_images_are_a_sequence(tmp_path: Path) -> None:
    source = open_source(make(tmp_path, *(f"7/{k}.png" for k in range(5))))
    (identity,) = source.identities
    path = tmp_path / "7" / "3.png"
    assert identity.images[3] == Image("7", "3.png", path)
    assert [image.name for image in identity.images[1:3]] == ["1.png", "2.png"]
    assert list(identity.images) == [identity.images[k] for k in range(5)]
    assert source.read(identity.images[3]) == path.read_bytes() == b"7/3.png"
    assert source.num_images == 5


def test_identity_folders_are_listed_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, *(f"{k}/0.png" for k in range(50)))
    listed = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scan(path))
    source = open_source(tmp_path)
    fingerprint(source.identities[:3])
    fingerprint(source.identities[:3])
    assert len(listed) == 1 + 3


def test_fingerprint_follows_names_and_order(tmp_path: Path) -> None:
    make(tmp_path, "1/0.png", "1/1.png", "2/0.png")
    identities = open_source(tmp_path).identities
    seen = {fingerprint(identities), fingerprint(identities[:1]), fingerprint(identities[::-1])}
    (tmp_path / "1" / "2.png").touch()
    seen.add(fingerprint(open_source(tmp_path).identities))
    (tmp_path / "1" / "2.png").rename(tmp_path / "2" / "2.png")
    seen.add(fingerprint(open_source(tmp_path).identities))
    assert len(seen) == 5
    plain = tuple(Identity(i.name, tuple(i.images)) for i in identities)
    assert fingerprint(plain) == fingerprint(identities)


def test_fingerprint_is_pinned(tmp_path: Path) -> None:
    """A dataset of an earlier version must still be known as its source's."""
    make(tmp_path, "1/0.png", "1/10.png", "1/9.png", "é/0.jpg")
    names = [[b"1", b"0.png", b"9.png", b"10.png"], [b"\xc3\xa9", b"0.jpg"]]
    said = b"".join(b"\x00".join(each) + b"/" for each in names)
    assert fingerprint(open_source(tmp_path).identities) == hashlib.sha256(said).hexdigest()


@pytest.mark.parametrize(
    ("files", "given", "message"),
    [
        ((), "no", "does not exist"),
        (("no",), "no", "is a file"),
        (("no/x.png",), "no/x.png/y", "is a file"),
        (("no/README.md",), "no", "holds no identity folders"),
        (("no/.hidden/0.png",), "no", "holds no identity folders"),
        (("no/0.png", "no/1.png"), "no", "holds images but no identity folders"),
        (("no/part1/7/0.png", "no/part2/8/0.png"), "no", "did you mean .*no/part1?"),
        (("no/7/a.txt", "no/8/b.txt"), "no", "2 identity folders and not one image"),
    ],
)
def test_what_cannot_be_a_source_is_one_line(
    tmp_path: Path, files: tuple[str, ...], given: str, message: str
) -> None:
    make(tmp_path, *files)
    with pytest.raises(UserError, match=message) as error:
        open_source(tmp_path / given)
    assert str(tmp_path / given) in str(error.value)
    assert "<identity>/<image>.png" in str(error.value)
    assert "\n" not in str(error.value)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no identity folders"):
        open_source(tmp_path)


@pytest.mark.parametrize("folder", ["", "2"])
def test_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    make(tmp_path, "1/0.png", "2/0.png")
    scan = os.scandir

    def refuse(path: os.PathLike[str]) -> object:
        if Path(path) == tmp_path / folder:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)") as error:
        fingerprint(open_source(tmp_path).identities)
    assert str(tmp_path / folder) in str(error.value)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
@pytest.mark.parametrize("name", [b"a/\xff.png", b"\xfe/0.png"])
def test_names_must_be_utf8(tmp_path: Path, name: bytes) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    file = Path(os.fsdecode(path))
    file.parent.mkdir()
    file.touch()
    with pytest.raises(UserError, match="is not UTF-8: rename it"):
        fingerprint(open_source(tmp_path).identities)


def test_real_renders_are_read_in_order(shared: Path) -> None:
    source = open_source(shared / "digiface-mini")
    assert [identity.name for identity in source.identities] == [str(k) for k in range(7)]
    assert [len(identity.images) for identity in source.identities] == [18, 18, 4, 4, 4, 4, 10]
    assert [image.name for image in source.identities[0].images] == [f"{k}.png" for k in range(18)]


@pytest.mark.slow
def test_a_whole_digiface_is_listed_in_time(tmp_path: Path) -> None:
    """110,000 folders, 1,220,000 files (here links to one file): under 30 s and 1.5 GB."""
    import resource

    (tmp_path / "x.png").touch()
    for label in range(110_000):
        folder = tmp_path / "source" / str(label)
        folder.mkdir(parents=True)
        for k in range(72 if label < 10_000 else 5):
            (folder / f"{k}.png").symlink_to("../../x.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start_s = time.perf_counter()
    source = open_source(tmp_path / "source")
    opened_s = time.perf_counter() - start_s
    fingerprint(source.identities)
    took_s = time.perf_counter() - start_s
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"opened in {opened_s:.1f} s, all listed in {took_s:.1f} s, {grown / 1024:.0f} MB")
    assert source.num_images == 1_220_000
    assert took_s < 30
    assert grown < 1.5 * 1024**2


def test_links_to_themselves(tmp_path: Path) -> None:
    """An image that links to itself fails when it is read, a folder that does is no identity."""
    make(tmp_path, "1/0.png")
    (tmp_path / "1" / "x.png").symlink_to("x.png")
    (tmp_path / "2").symlink_to("2")
    source = open_source(tmp_path)
    assert listing(source) == {"1": ["0.png", "x.png"]}
    with pytest.raises(OSError, match="symbolic links"):
        source.read(source.identities[0].images[1])


@pytest.mark.parametrize("given", ["loop", "only"])
def test_nothing_but_links_to_themselves(tmp_path: Path, given: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "only" / "1").mkdir(parents=True)
    (tmp_path / "only" / "1" / "deep").symlink_to("deep")
    with pytest.raises(UserError, match=r"cannot be read|not one image") as error:
        open_source(tmp_path / given)
    assert "\n" not in str(error.value)
