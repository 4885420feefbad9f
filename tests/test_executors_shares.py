"""Which shards and which card a process takes: ranges, SLURM arrays, devices."""

from types import SimpleNamespace

import pytest

from d2r_fast.engine.config import Execution
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.executors.local import visible_card
from d2r_fast.engine.executors.place import Machine, check_no_card, find_devices
from d2r_fast.engine.executors.share import find_share

ARRAY = {"ID": 3, "MIN": 1, "COUNT": 4, "STEP": 1}


@pytest.mark.parametrize("num_shards", [1, 3, 4, 10, 400])
def test_a_slurm_array_divides_all_shards(num_shards: int) -> None:
    shares = [find_share(Execution(), num_shards, slurm(ID=task)) for task in range(1, 5)]
    assert [shard for share in shares for shard in share or ()] == list(range(num_shards))
    lengths = [len(share or ()) for share in shares]
    assert max(lengths) - min(lengths) <= 1


def slurm(**changes: int) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in (ARRAY | changes).items()}


def test_what_is_said_goes_before_the_array(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_share(Execution(), 40, {}) is None
    assert find_share(Execution(shards="5:9"), 40, slurm()) == range(5, 9)
    assert find_share(Execution(shards="all"), 40, slurm()) is None
    assert find_share(Execution(executor="ray"), 40, slurm()) is None
    assert capsys.readouterr().err == ""
    assert find_share(Execution(), 40, slurm(STEP=2, MIN=1, ID=5)) == range(20, 30)
    assert capsys.readouterr().err == (
        "SLURM array task 5, number 3 of 4: makes shards 20:30 of 40; --shards all makes all\n"
    )


@pytest.mark.parametrize("changes", [{"ID": 9}, {"ID": 0}, {"STEP": 2, "ID": 2}])
def test_an_array_with_gaps_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(UserError, match="leave gaps"):
        find_share(Execution(), 40, slurm(**changes))


def test_an_array_without_its_count_is_refused() -> None:
    with pytest.raises(UserError, match="SLURM_ARRAY_TASK_COUNT=, "):
        find_share(Execution(), 40, {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1"})


@pytest.mark.parametrize("text", ["5", "5:5", "9:5", "-1:5", "a:b", "1:2:3", " 1:2", ""])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"expected A:B with A below B"):
        Execution(shards=text)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(UserError, match="there are 8, give at most 0:8"):
        find_share(Execution(shards="0:9"), 8)
    with pytest.raises(UserError, match="exclude each other"):
        Execution(executor="ray", shards="0:9")
    with pytest.raises(UserError, match="--ray-address belongs to --executor ray"):
        Execution(ray_address="10.0.0.1:6379")
    with pytest.raises(UserError, match="see their own card alone: give auto"):
        check_no_card("recogniser_device", "cuda:1", Machine(("cuda:0", "cuda:1")))


def test_each_worker_sees_its_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [visible_card(device) for device in ("cpu", "cuda:0", "cuda:3")] == [None, "0", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-8f,6")
    assert visible_card("cuda:1") == "GPU-8f"


def test_devices_are_all_cards_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)

    def devices(device: str, workers: int | None) -> list[str]:
        return find_devices(SimpleNamespace(device=device, workers=workers, executor="local", ray_address=""))

    assert devices("auto", None) == devices("cuda", None) == ["cuda:0", "cuda:1"]
    assert devices("auto", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert devices("cuda:1", None) == ["cuda:1"]
    assert devices("cpu", None) == ["cpu"]
    assert devices("cpu", 2) == ["cpu", "cpu"]
