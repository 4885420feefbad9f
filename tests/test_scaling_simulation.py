"""The simulation of many GPUs, against what can be worked out by hand; and the page that it makes."""

import json
import random
import statistics
from pathlib import Path
from typing import Any

import pytest

from d2r_fast.bench.measure import Budget
from d2r_fast.bench.scaling_profile import Input, Profile, profile_dataset, read_profile
from d2r_fast.bench.scaling_simulation import BEGIN, END, first_break, limits, main, render, simulate
from d2r_fast.bench.workers_section import IMAGE_S, IMAGES_PER_SHARD, measure_workers
from d2r_fast.engine.errors import UserError

from .fakedata import make_dataset, make_document

ROOT = Path(__file__).resolve().parents[1]
PROFILES = sorted((ROOT / "bench" / "profiles").glob("*.json"))
FREE = dict.fromkeys(
    (
        "host_s", "bytes_in", "operations_in", "bytes_out", "operations_out", "start_s", "start_bytes",
        "start_operations", "hand_out_s",
    ),
    0.0,
)  # fmt: skip
"""Whatever costs nothing where only computing counts."""


def make_profile(**values: float) -> Profile:
    """Nothing but computing, 1 s a shard, if not said otherwise."""
    numbers = FREE | {
        "num_shards": 240, "images_per_shard": 100, "device_s": 0.01, "cores_per_gpu": 4,
        "storage_bytes_per_s": 1e6, "storage_operations_per_s": 1e3,
    }  # fmt: skip
    return Profile(
        title="by hand", **{k: Input(value=v, how="assumed", note="") for k, v in (numbers | values).items()}
    )


@pytest.mark.parametrize("num_gpus", [1, 2, 8, 60, 240])
def test_workers_that_share_nothing_take_the_share_of_the_time(num_gpus: int) -> None:
    outcome = simulate(make_profile(), num_gpus)
    assert outcome.total_s == pytest.approx(240 / num_gpus, rel=1e-12)
    assert outcome.images_per_s == pytest.approx(100 * num_gpus, rel=1e-12)
    assert outcome.computing == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("num_shards", "num_gpus", "rounds"), [(10, 4, 3), (7, 8, 1), (17, 8, 3), (16, 8, 2)]
)
def test_the_last_round_is_a_whole_one(num_shards: int, num_gpus: int, rounds: int) -> None:
    outcome = simulate(make_profile(num_shards=num_shards), num_gpus)
    assert outcome.total_s == pytest.approx(rounds)
    assert outcome.computing == pytest.approx(num_shards / (rounds * num_gpus))
    assert outcome.computing + outcome.starting + outcome.waiting + outcome.ended == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("values", "per_shard_s", "share"),
    [
        ({"bytes_in": 2500.0, "bytes_out": 500.0}, 0.3, "storage"),
        ({"operations_in": 3.0, "operations_out": 100.0}, 0.4, "operations"),
        ({"hand_out_s": 0.25}, 0.25, "head"),
    ],
)
def test_what_is_shared_limits_the_rate(values: dict[str, float], per_shard_s: float, share: str) -> None:
    num_shards = 2000
    profile = make_profile(num_shards=num_shards, **values)
    limit = 1 / per_shard_s  # GPUs that it can keep at work, each of which takes 1 s a shard
    assert list(limits(profile).values()) == [pytest.approx(limit)]
    below, above = simulate(profile, 2), simulate(profile, 16)
    assert below.images_per_s == pytest.approx(200, rel=0.01)
    assert above.images_per_s == pytest.approx(100 * limit, rel=0.01)
    assert getattr(above, share) > 0.99
    assert above.waiting > 0.5


def test_cores_that_are_slower_than_the_gpu_set_the_pace() -> None:
    outcome = simulate(make_profile(host_s=0.08, cores_per_gpu=4), 2)
    assert outcome.images_per_s == pytest.approx(2 * 4 / 0.08)


@pytest.mark.slow  # and for a machine with nothing else to do
def test_workers_that_sleep_scale_as_simulated(tmp_path: Path) -> None:
    """Against a real run of one worker process and of two, whose network sleeps."""
    num_shards = 60
    timings = measure_workers(tmp_path, num_shards=num_shards, budget=Budget(1))
    one_s, two_s = (statistics.median(run.shard_s for run in timings[workers]) for workers in (1, 2))
    assert one_s >= IMAGES_PER_SHARD * IMAGE_S
    profile = make_profile(
        num_shards=num_shards, images_per_shard=IMAGES_PER_SHARD, device_s=one_s / IMAGES_PER_SHARD
    )
    simulated = simulate(profile, 1).total_s / simulate(profile, 2).total_s
    assert one_s / two_s == pytest.approx(simulated, rel=0.1)


def test_models_are_read_one_worker_after_the_other() -> None:
    profile = make_profile(start_bytes=2e6, start_s=5, num_shards=4)
    outcome = simulate(profile, 4)
    # All share the link to the end, then start and compute.
    assert outcome.total_s == pytest.approx(4 * 2 + 5 + 1)


def test_no_run_is_faster_than_its_slowest_part_allows() -> None:
    rng = random.Random(3)
    for _ in range(40):
        values = {name: rng.choice([0.0, rng.uniform(0, 0.02)]) for name in ("host_s", "hand_out_s")}
        values |= {name: rng.choice([0.0, rng.uniform(0, 900)]) for name in ("bytes_in", "bytes_out")}
        profile = make_profile(num_shards=rng.randrange(1, 200), start_s=rng.uniform(0, 9), **values)
        num_gpus = rng.randrange(1, 30)
        outcome = simulate(profile, num_gpus)
        shards = profile.num_shards.value
        rounds = -(-shards // num_gpus)
        floors = [shards * seconds for seconds in (profile.shard_bytes / 1e6, profile.hand_out_s.value)]
        assert outcome.total_s >= max(*floors, rounds * profile.shard_s) * (1 - 1e-9)
        alone_s = shards * (profile.shard_s + profile.shard_bytes / 1e6 + profile.hand_out_s.value)
        assert outcome.total_s <= alone_s + profile.start_s.value + 1e-9  # never slower than all in a row


def test_what_breaks_first_is_named() -> None:
    def cause(**values: float) -> tuple[int, str]:
        found = first_break(make_profile(num_shards=600, **values))
        assert found is not None
        return found[0].num_gpus, found[1]

    assert cause(hand_out_s=0.1)[0] == 16  # of which a head node of 10 shards a second feeds ten
    assert cause(hand_out_s=0.1)[1].startswith("the head node")
    assert cause(bytes_out=3000.0)[1].startswith("the storage's bandwidth")
    assert cause(start_s=60.0)[1].startswith("the start of the workers")
    assert cause()[1].startswith("the number of shards")
    assert first_break(make_profile(num_shards=32 * 16), most_gpus=32) is None


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_shipped_profiles_can_be_read_and_every_input_says_where_it_is_from(path: Path) -> None:
    profile = read_profile(path)
    assert all(given.note for given in profile.inputs().values())


def test_the_page_holds_what_the_command_makes() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    made = "\n\n".join(render(read_profile(path)) for path in PROFILES)
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == made, (
        "run python -m d2r_fast.bench.scaling_simulation bench/profiles/*.json --page docs/scaling.md"
    )


def test_the_command_prints_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(make_profile().model_dump()))
    monkeypatch.setattr("sys.argv", ["scaling_simulation", str(path), "--gpus", "1", "3"])
    main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| 1 |", "| 3 |"))]
    assert rows == [
        "| 1 | 100 | 4 min | 1x | 100.0 % | 0.0 % | 0.0 % | 0.0 % | 0.0 % | 0.0 % | 0.0 % |",
        "| 3 | 300 | 1.33 min | 3x | 100.0 % | 0.0 % | 0.0 % | 0.0 % | 0.0 % | 0.0 % | 0.0 % |",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device_s": {"value": -1, "how": "assumed", "note": ""}}, "value = -1"),
        ({"device_s": {"value": 1, "how": "guessed", "note": ""}}, "how = 'guessed'"),
        ({"device_s": 3}, "device_s = 3"),
        ({"num_shards": {"value": 0, "how": "assumed", "note": ""}}, "num_shards = 0"),
        ({"num_shards": {"value": 2.5, "how": "assumed", "note": ""}}, "whole num_shards"),
        ({"divice_s": 1}, "did you mean 'device_s'"),
    ],
)
def test_a_wrong_profile_is_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(make_profile().model_dump() | change))
    with pytest.raises(UserError, match=message) as caught:
        read_profile(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "no JSON object")])
def test_a_profile_that_is_none_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_profile(path)
    with pytest.raises(UserError, match="cannot read the profile"):
        read_profile(tmp_path / "none.json")


def test_a_profile_is_made_of_a_dataset_and_its_log(tmp_path: Path) -> None:
    make_dataset(tmp_path, make_document())
    events = [{"event": "start", "time": 100.0}]
    events += [{"event": "shard", "time": 110.0 + 6 * n, "shard": n, "images": 12} for n in range(3)]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    profile = profile_dataset(tmp_path, like=make_profile())
    # 12 images every 6 s; the first, with the start before it, does not count.
    assert profile.device_s.value == 0.5
    assert profile.num_shards.value == 3
    assert profile.images_per_shard.value == pytest.approx(28 / 3)
    shard = sum(path.stat().st_size for path in tmp_path.glob("00000*") if "stats" not in path.name)
    assert profile.bytes_out.value == shard / 12
    (tmp_path / "events.jsonl").write_text(json.dumps(events[0] | {"workers": 2}) + "\n")
    with pytest.raises(UserError, match="2 workers"):
        profile_dataset(tmp_path, like=make_profile())
