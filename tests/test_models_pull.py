"""`models pull` with the real client against a hub of ours on loopback."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.engine.models import pull
from d2r_fast.engine.models.check import check_models
from d2r_fast.engine.models.layout import PARTS, SCHEDULER, UNET, VAE, describe_files
from d2r_fast.engine.models.pull import pull_models

from .fakehub import Hub, serve
from .initmodels import mini_models, rewrite

WEIGHTS = "arc2face/diffusion_pytorch_model.safetensors"
REPO, REVISION = UNET.repository.name, UNET.repository.revision


def contents() -> dict[tuple[str, str, str], bytes]:
    """A hub that has every file of the table, each of a few kilobytes."""
    return {
        (part.repository.name, part.repository.revision, remote): f"{remote}\n".encode() * 100
        for part in PARTS
        for remote, _ in part.downloads
    }


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub(contents())) as hub:
        yield hub


@pytest.fixture(autouse=True)
def small_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sleeps between its tries, and keeps what it got of a broken transfer by the 10 MB."""
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100)
    for module in (huggingface_hub.file_download, huggingface_hub.utils._http):
        monkeypatch.setattr(module.time, "sleep", lambda _: None)


class Puller:
    """pull_models with this test's hub and cache; keeps what was said."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.cache, self.out = hub, folder / "cache", folder / "models"
        self.said: list[str] = []

    def __call__(self, **options: Any) -> dict[str, Any]:
        arguments = {"endpoint": self.hub.url, "cache_dir": self.cache, "say": self.said.append} | options
        pull_models(self.out, **arguments)
        card: dict[str, Any] = json.loads((self.out / "models.json").read_bytes())
        return card

    def fails(self, kind: type[Exception], match: str, **options: Any) -> None:
        with pytest.raises(kind, match=match) as caught:
            self(**options)
        assert "\n" not in str(caught.value)
        assert not (self.out / "models.json").exists()


@pytest.fixture
def puller(hub: Hub, tmp_path: Path) -> Puller:
    return Puller(hub, tmp_path)


def test_everything_arrives_in_the_layout(puller: Puller, capfd: pytest.CaptureFixture[str]) -> None:
    card = puller()
    assert card["kind"] == "released"
    for part in PARTS:
        for remote, local in part.downloads:
            data = puller.hub.files[part.repository.name, part.repository.revision, remote]
            assert (puller.out / local).read_bytes() == data
            assert card["files"][local] == {
                "repo": part.repository.name,
                "revision": part.repository.revision,
                "sha256": sha256_file(puller.out / local),
                "bytes": len(data),
                "licence": part.repository.licence,
            }
    files = {path.relative_to(puller.out).as_posix() for path in puller.out.rglob("*") if path.is_file()}
    assert files == card["files"].keys() | {"models.json"}
    assert capfd.readouterr() == ("", "")  # no bars, no warnings outside a terminal
    assert all(agent.startswith("d2r-fast/") for agent in puller.hub.agents)


def test_licences_come_before_the_first_request(puller: Puller) -> None:
    shown: list[str] = []

    def say(line: str) -> None:
        if not puller.hub.requests:
            shown.append(line)

    puller(say=say)
    text = "\n".join(shown)
    for licence in ("MIT", "CreativeML OpenRAIL-M", "OpenRAIL++", "non-commercial research only"):
        assert licence in text
    for local in ("antelopev2/scrfd_10g_bnkps.onnx", "encoder/pytorch_model.bin"):
        assert local in text


def test_pulled_mini_models_check_and_describe(hub: Hub, puller: Puller, tmp_path_factory: Any) -> None:
    models = mini_models(tmp_path_factory.getbasetemp())
    torch.save(load_file(models / "encoder/model.safetensors"), models.parent / "pytorch_model.bin")
    for part in PARTS:
        for remote, local in part.downloads:
            source = models.parent / "pytorch_model.bin" if local.endswith(".bin") else models / local
            hub.files[part.repository.name, part.repository.revision, remote] = source.read_bytes()
    puller()
    report = check_models(puller.out)
    assert report.complete
    assert report.origin == "released weights"
    networks, kind = describe_files(puller.out, recogniser=None, detector="scrfd", sampler="lcm")
    assert kind == "released"
    assert networks["vae"]["licence"] == "CreativeML OpenRAIL-M"


def test_a_broken_transfer_is_resumed_where_it_broke(puller: Puller) -> None:
    puller.hub.cuts[WEIGHTS] = [1000, 500]
    puller(parts=[UNET])
    assert (puller.out / WEIGHTS).read_bytes() == puller.hub.files[REPO, REVISION, WEIGHTS]
    ranges = [
        range_ for method, path, range_ in puller.hub.requests if method == "GET" and path.endswith(WEIGHTS)
    ]
    assert ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_a_transfer_that_keeps_breaking_is_one_line(puller: Puller) -> None:
    puller.hub.cuts[WEIGHTS] = [1000] + [0] * 20
    puller.fails(
        RunError,
        r"the transfer of arc2face/diffusion_pytorch_model.safetensors of .* broke off",
        parts=[UNET],
    )
    assert not (puller.out / WEIGHTS).exists()
    puller.hub.cuts.clear()
    puller.hub.requests.clear()
    puller(parts=[UNET])
    assert puller.hub.fetched() == [f"/cdn/{REPO}/resolve/{REVISION}/{WEIGHTS}"]  # the config was kept


def test_a_second_pull_asks_for_nothing(puller: Puller) -> None:
    first = puller()
    shutil.rmtree(puller.cache)
    puller.hub.requests.clear()
    assert puller() == first
    assert puller.hub.requests == []


def test_what_other_programs_cached_is_not_fetched_again(puller: Puller) -> None:
    puller()
    shutil.rmtree(puller.out)
    puller.hub.requests.clear()
    puller()
    assert puller.hub.requests == []


def test_a_file_that_went_missing_is_put_back(puller: Puller) -> None:
    first = puller(parts=[VAE])
    (puller.out / VAE.weights[0]).unlink()
    rewrite(puller.out / "vae/config.json", b"edited")
    with pytest.raises(UserError, match=r"vae/config.json exists and is not"):
        puller(parts=[VAE])
    (puller.out / "vae/config.json").unlink()
    assert puller(parts=[VAE]) == first


def test_parts_add_up(puller: Puller) -> None:
    first, second = puller(parts=[VAE]), puller(parts=[SCHEDULER])
    assert second["files"].items() > first["files"].items()
    assert len(second["files"]) == 3


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ((REPO, REVISION, WEIGHTS), r"safetensors of FoivosPar/Arc2Face .*: this revision has no such file"),
        (
            (REPO, REVISION),
            r"config.json of FoivosPar/Arc2Face .*: the repository no longer has this revision",
        ),
        ((REPO,), r"config.json of FoivosPar/Arc2Face .*: there is no such repository"),
    ],
)
def test_what_the_hub_does_not_have(puller: Puller, key: tuple[str, ...], match: str) -> None:
    kept = {full: data for full, data in puller.hub.files.items() if full[: len(key)] != key}
    if len(key) == 2:
        kept[REPO, "0" * 40, WEIGHTS] = b"another revision"
    puller.hub.files = kept
    puller.fails(RunError, match)
    assert puller.hub.fetched() == []  # seen before a byte was downloaded


def test_a_hub_that_fails_or_is_none(puller: Puller) -> None:
    puller.hub.status = 403
    puller.fails(RunError, "answered 403|cannot reach", parts=[SCHEDULER])
    puller.hub.status, puller.hub.commit_header = None, False
    puller.fails(UserError, "is not a Hugging Face hub: check HF_ENDPOINT", parts=[SCHEDULER])


def test_no_network(puller: Puller) -> None:
    puller.fails(
        RunError, r"cannot reach http://127.0.0.1:9 for .*: check the network", endpoint="http://127.0.0.1:9"
    )


def test_a_damaged_cache_is_named(puller: Puller) -> None:
    puller(parts=[UNET, SCHEDULER])
    shutil.rmtree(puller.out)
    for name, part in ((WEIGHTS, UNET), ("scheduler/scheduler_config.json", SCHEDULER)):
        (cached,) = puller.cache.rglob(f"snapshots/*/{name}")
        blob, data = cached.resolve(), cached.read_bytes()
        blob.write_bytes(data[:-1] + b"?")
        puller.fails(RunError, rf"is damaged in the cache: delete {blob}", parts=[part])
        blob.unlink()
        puller(parts=[part])
        shutil.rmtree(puller.out)


def test_a_full_disk_shows_before_the_download(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 5000))
    puller.fails(RunError, "has 5,000 bytes free and the download needs")
    assert puller.hub.fetched() == []


def test_a_disk_that_fills_on_the_way(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
    puller.fails(RunError, "the disk is full", parts=[SCHEDULER])


def test_what_the_clients_other_transport_raises(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Data processing error: CAS service error\nmore")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", fail)
    puller.fails(RunError, r"broke off \(Data processing error: CAS service error\)", parts=[SCHEDULER])


def test_copies_where_links_cannot_be(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    puller(parts=[SCHEDULER])
    assert (puller.out / "scheduler/scheduler_config.json").stat().st_nlink == 2
    shutil.rmtree(puller.out)
    monkeypatch.setattr(os, "link", refuse)
    puller(parts=[SCHEDULER])
    assert (puller.out / "scheduler/scheduler_config.json").stat().st_nlink == 1


def test_random_models_and_files_are_left_alone(puller: Puller, tmp_path: Path) -> None:
    puller.out.mkdir()
    (puller.out / "models.json").write_text('{"kind": "random", "files": {}}')
    with pytest.raises(UserError, match="holds random weights"):
        puller()
    with pytest.raises(UserError, match="is a file"):
        pull_models(puller.out / "models.json", say=puller.said.append)
    assert puller.hub.requests == []


PULL = (
    "import sys; from pathlib import Path; from d2r_fast.engine.models.pull import pull_models; "
    "from d2r_fast.engine.models.layout import SCHEDULER; pull_models(Path(sys.argv[1]), parts=[SCHEDULER])"
)


def test_environment_is_respected(hub: Hub, tmp_path: Path) -> None:
    """The client reads its variables when it is imported: in a process of its own."""

    def run(out: str, **extra: str) -> subprocess.CompletedProcess[str]:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")} | extra
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        command = [sys.executable, "-W", "error", "-c", PULL, str(tmp_path / out)]
        return subprocess.run(command, env=kept | settings, capture_output=True, text=True)

    refused = run("refused", HF_HUB_OFFLINE="1")
    assert "UserError" in refused.stderr
    assert "HF_HUB_OFFLINE is set: unset it to download" in refused.stderr
    assert hub.requests == []
    online = run("online")
    assert online.returncode == 0, online.stderr
    assert online.stdout == ""
    assert online.stderr.count("\n") == 3  # the licence, the file, the end
    assert (tmp_path / "home/hub").is_dir()
    assert run("offline", HF_HUB_OFFLINE="1").returncode == 0
    same = "scheduler/scheduler_config.json"
    assert (tmp_path / "offline" / same).read_bytes() == (tmp_path / "online" / same).read_bytes()


def test_revisions_are_full_commits() -> None:
    for part in PARTS:
        assert pull.GIT_SHA1.fullmatch(part.repository.revision)
        assert part.repository.licence
