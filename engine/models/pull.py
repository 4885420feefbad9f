"""`models pull`: the released weights, from the Hugging Face hub at pinned revisions, in the layout.

Downloads go through huggingface_hub into its cache and are then linked (copied, across disks) into the model
folder: HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN hold, and what other programs have cached is not
fetched twice. Run again after a failure, it goes on with what is missing.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)  # fmt: skip

import d2r_fast
from d2r_fast.engine.console import say as say_on_stderr
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import disk_errors, sha256_file, sync_folder, temporary
from d2r_fast.engine.models.card import CARD, is_untrained, read_card, write_card
from d2r_fast.engine.models.layout import PARTS, Part, Repository

SHA256, GIT_SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
AGAIN = "what is finished is kept, so run the same command again"
# The name of the hub client's HTTP library differs between its versions; its errors derive from this one.
HTTP_ERROR: Any = HfHubHTTPError.__bases__[0]
NOT_LINKABLE = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES)


@dataclass(frozen=True, slots=True)
class Download:
    """One file of a repository and its place in the model folder."""

    repository: Repository
    remote: str
    local: str

    def __str__(self) -> str:
        return f"{self.remote} of {self.repository.name} at {self.repository.revision[:10]}"


def pull_models(
    out: Path,
    *,
    parts: Sequence[Part] = PARTS,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
    say: Callable[[str], None] = say_on_stderr,
) -> None:
    """Download the released files of `parts` into `out`, after showing their licences.

    `endpoint` and `cache_dir` take the place of HF_ENDPOINT and of the cache that HF_HOME names. Every file
    is checked against the digest under which the hub lists it.

    Raises:
        UserError: `out` holds other files in these places, or a setting keeps the download from starting.
        RunError: no network, a file or revision that is gone, a transfer that broke, a full disk.
    """
    downloads = [Download(part.repository, *pair) for part in parts for pair in part.downloads]
    files = _already_there(out, downloads)
    missing = [download for download in downloads if download.local not in files]
    for line in licence_lines(parts):
        say(line)
    with _quiet_in_logs():
        fetch = _Client(endpoint, cache_dir)
        fetch.check_disk(missing, out)
        for number, download in enumerate(missing, 1):
            say(f"{number}/{len(missing)} {download.local}")
            files[download.local] = _place(fetch(download), out / download.local, download)
    write_card(out, {"kind": "released", "files": files})
    say(f"{out} has all {len(files)} files")


def licence_lines(parts: Sequence[Part]) -> list[str]:
    """What is downloaded from where and under which licence, a line per repository."""
    locals_of: dict[Repository, list[str]] = {}
    for part in parts:
        locals_of.setdefault(part.repository, []).extend(local for _, local in part.downloads)
    return [f"{repo.name}: {repo.licence} ({', '.join(files)})" for repo, files in locals_of.items()]


def _already_there(out: Path, downloads: Sequence[Download]) -> dict[str, Any]:
    """Entries of models.json that hold still: of files that an earlier pull finished, or that nobody asks for."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder")
    card = read_card(out)
    if is_untrained(card):
        raise UserError(
            f"{out} holds random weights ({CARD} says so): give another folder, or delete it first"
        )
    listed: dict[str, Any] = card["files"] if card else {}
    asked = {download.local for download in downloads}
    kept = {file: entry for file, entry in listed.items() if file not in asked}
    for download in downloads:
        entry, path = listed.get(download.local, {}), out / download.local
        same = (
            entry.get("repo") == download.repository.name
            and entry.get("revision") == download.repository.revision
        )
        if same and path.is_file() and sha256_file(path) == entry["sha256"]:
            kept[download.local] = entry
    return kept


class _Client:
    """hf_hub_download with our settings: `client(download) -> Path` of the file in the cache."""

    def __init__(self, endpoint: str | None, cache_dir: Path | None) -> None:
        self.endpoint = endpoint or constants.ENDPOINT
        self.cache_dir = cache_dir or Path(constants.HF_HUB_CACHE)

    def __call__(self, download: Download) -> Path:
        return Path(self._call(download, dry_run=False))

    def check_disk(self, downloads: Sequence[Download], out: Path) -> None:
        """Ask for every file's size, so that a missing file or a full disk shows before the gigabytes."""
        infos = [self._call(download, dry_run=True) for download in downloads]
        downloaded = sum(info.file_size or 0 for info in infos if info.will_download)
        cache_disk, out_disk = _existing(self.cache_dir), _existing(out)
        linked = cache_disk.stat().st_dev == out_disk.stat().st_dev
        copied = 0 if linked else sum(info.file_size or 0 for info in infos)
        for folder, needed_bytes in ((cache_disk, downloaded), (out_disk, copied)):
            free = shutil.disk_usage(folder).free
            if free < needed_bytes:
                raise RunError(
                    f"{folder} has {free:,} bytes free and the download needs {needed_bytes:,}: free "
                    "some space, or set HF_HOME to a folder on another disk"
                )

    def _call(self, download: Download, *, dry_run: bool) -> Any:
        with self._plain_errors(download):
            return hf_hub_download(
                download.repository.name,
                download.remote,
                revision=download.repository.revision,
                cache_dir=self.cache_dir,
                endpoint=self.endpoint,
                headers={"user-agent": f"d2r-fast/{d2r_fast.__version__}"},  # and nothing of the machine
                dry_run=dry_run,
            )

    @contextmanager
    def _plain_errors(self, download: Download) -> Iterator[None]:
        """One line for what can go wrong between here and the hub."""
        try:
            with disk_errors(self.cache_dir):
                yield
        except LocalEntryNotFoundError as error:
            raise self._unreachable(download, error) from error
        except tuple(_REASONS) as error:
            reason = next(text for kind, text in _REASONS.items() if isinstance(error, kind))
            raise RunError(f"{download} cannot be had from {self.endpoint}: {reason}") from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            raise RunError(f"{self.endpoint} answered {status} for {download}: try later; {AGAIN}") from error
        except (HTTP_ERROR, OSError, RuntimeError) as error:
            # OSError: the length is not the announced one. RuntimeError: what its xet library meets on the way.
            if isinstance(error, RunError) or (
                getattr(error, "errno", None) and not isinstance(error, _NETWORK)
            ):
                raise
            raise RunError(f"the transfer of {download} broke off ({_first(error)}): {AGAIN}") from error

    def _unreachable(self, download: Download, error: LocalEntryNotFoundError) -> UserError | RunError:
        if huggingface_hub.is_offline_mode():
            return UserError(
                f"{download} is not in {self.cache_dir} and HF_HUB_OFFLINE is set: unset it to download"
            )
        if isinstance(error.__cause__, FileMetadataError):
            return UserError(f"{self.endpoint} is not a Hugging Face hub: check HF_ENDPOINT and your proxy")
        reason = _first(error.__cause__ or error)
        return RunError(f"cannot reach {self.endpoint} for {download} ({reason}): check the network; {AGAIN}")


_NETWORK = (ConnectionError, TimeoutError)
_REASONS: dict[type[Exception], str] = {
    RevisionNotFoundError: "the repository no longer has this revision",
    RemoteEntryNotFoundError: "this revision has no such file",
    GatedRepoError: "its owner grants access on request: ask on its page, then set HF_TOKEN",
    RepositoryNotFoundError: "there is no such repository, or it is private",
}


def _place(cached: Path, target: Path, download: Download) -> dict[str, Any]:
    """Put a cached file where it belongs; returns its entry in models.json."""
    num_bytes, sha256 = cached.stat().st_size, sha256_file(cached)
    _check_digest(cached, sha256, download)
    if target.exists():
        if sha256_file(target) != sha256:
            raise UserError(f"{target} exists and is not {download}: move it away, or give another folder")
    else:
        with disk_errors(target, needed_bytes=num_bytes):
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(cached.resolve(), target)
    repository = download.repository
    return {
        "repo": repository.name,
        "revision": repository.revision,
        "sha256": sha256,
        "bytes": num_bytes,
        "licence": repository.licence,
    }


def _check_digest(cached: Path, sha256: str, download: Download) -> None:
    """Compare with the digest that the cache's link names: SHA-256, or git's SHA-1 of a small file."""
    named = cached.readlink().name if cached.is_symlink() else ""
    if GIT_SHA1.fullmatch(named):
        data = cached.read_bytes()
        same = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == named
    else:
        same = sha256 == named or not SHA256.fullmatch(named)
    if not same:
        raise RunError(
            f"{download} is damaged in the cache: delete {cached.resolve()} and run the same command again"
        )


def _link_or_copy(source: Path, target: Path) -> None:
    temp = temporary(target)
    temp.unlink(missing_ok=True)
    try:
        os.link(source, temp)
    except OSError as error:
        if error.errno not in NOT_LINKABLE:
            raise
        with source.open("rb") as original, temp.open("wb") as copy:
            shutil.copyfileobj(original, copy, 2**24)
            copy.flush()
            os.fsync(copy.fileno())
    temp.replace(target)
    sync_folder(target.parent)


@contextmanager
def _quiet_in_logs() -> Iterator[None]:
    """Outside a terminal, keep the hub client's warnings out; its progress bars see to themselves."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    if not sys.stderr.isatty():
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _first(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
