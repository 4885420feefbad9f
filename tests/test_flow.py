"""The flow of a run: early looks, other step counts, failures half-way, and what may not depend on any of it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2r_fast.engine import pipeline
from d2r_fast.engine.config import GenerateConfig, Recipe
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.finish import Finisher
from d2r_fast.engine.flow import EARLY
from d2r_fast.engine.report import write_report
from d2r_fast.engine.rows import ImageRow
from d2r_fast.engine.scheduler import Scheduler
from d2r_fast.engine.verify import verify

from .fakedata import tree
from .test_pipeline import QUICK, crops, rows


def run(source: Path, models: Path, out: Path, **changes: Any) -> list[ImageRow]:
    settings = QUICK | {"source": source, "models": models, "out": out, "max_error_rate": 1.0, "steps": 3}
    assert pipeline.generate(GenerateConfig(**settings | changes)) == 0
    assert not verify(out).problems
    return rows(out)


@pytest.fixture(scope="module")
def plain(renders: Path, mini_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "dataset"
    run(renders, mini_models, out, identities=2)
    return out


@pytest.fixture(scope="module")
def looked(renders: Path, mini_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an early look that all pass."""
    out = tmp_path_factory.mktemp("looked") / "dataset"
    run(renders, mini_models, out, identities=2, early_reject=(2, -1.0))
    return out


@pytest.fixture(scope="module")
def strict(looked: Path) -> dict[str, Any]:
    """Settings under which half of the images are drawn again."""
    middle = float(np.median([row.cos_early for row in rows(looked) if row.cos_early is not None]))
    return {"identities": 2, "early_reject": (2, middle), "attempts": 2}


@pytest.fixture(scope="module")
def halved(
    renders: Path, mini_models: Path, strict: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A dataset of those."""
    out = tmp_path_factory.mktemp("halved") / "dataset"
    run(renders, mini_models, out, **strict)
    return out


def test_an_early_look_that_passes_all_changes_no_image(plain: Path, looked: Path) -> None:
    found = rows(looked)
    assert all(row.cos_early is not None for row in found)
    assert {row.attempts for row in found} == {1}
    ours, theirs = crops(looked), crops(plain)
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    assert all(row.cos_early is None for row in rows(plain))


def test_an_early_look_that_passes_none_rejects_all_and_says_so(
    renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    found = run(renders, mini_models, tmp_path / "out", identities=1, early_reject=(1, 1.0), attempts=2)
    assert {(row.status, row.reason, row.attempts) for row in found} == {("rejected", EARLY, 2)}
    assert all(row.cos_early is not None and -1 <= row.cos_early < 1 for row in found)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_who_is_rejected_early_does_not_depend_on_the_batch(
    plain: Path, looked: Path, halved: Path, strict: dict[str, Any], renders: Path, mini_models: Path, tmp_path: Path,
    batch_size: int,
) -> None:  # fmt: skip
    found = run(renders, mini_models, tmp_path / "n", batch_size=batch_size, **strict)
    assert tree(tmp_path / "n") == tree(halved)
    middle = strict["early_reject"][1]
    first = {row.key for row in rows(looked) if row.cos_early is not None and row.cos_early >= middle}
    assert {row.key for row in found if row.attempts == 1} == first
    ours, theirs = crops(tmp_path / "n"), crops(plain)
    for row in found:
        same = np.array_equal(ours[row.identity, row.image], theirs[row.identity, row.image]) if (
            row.status == "written"
        ) else False  # fmt: skip
        assert same == (row.key in first)


def test_identities_may_have_their_own_steps(
    plain: Path, renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    names = [row.identity for row in rows(plain)[::6]]
    table = tmp_path / "steps.csv"
    table.write_text(f"identity,steps\n{names[1]},5\n")
    run(renders, mini_models, tmp_path / "out", identities=2, identity_steps=table)
    ours, theirs = crops(tmp_path / "out"), crops(plain)
    for (identity, image), pixels in theirs.items():
        assert np.array_equal(ours[identity, image], pixels) == (identity == names[0])


def test_guidance_for_part_of_the_steps_is_another_image(
    plain: Path, renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    run(renders, mini_models, tmp_path / "out", identities=1, guidance_interval=(0.3, 0.6))
    ours, theirs = crops(tmp_path / "out"), crops(plain)
    assert not any(np.array_equal(pixels, theirs[key]) for key, pixels in ours.items())


def test_a_shard_whose_identities_all_fail_is_written_too(
    renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    found = run(renders, mini_models, tmp_path / "out", source_images_per_identity=7)
    assert {row.status for row in found} == {"failed"}
    assert len(found) == 24


@pytest.mark.parametrize("stage", ["sample", "finish"])
def test_a_network_that_fails_names_its_images_and_the_run_goes_on_later(
    plain: Path, renders: Path, mini_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    calls = 0

    def fail(*_: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise RunError("unet failed in torch (out of luck)")
        return whole(*_)

    where, name = (Scheduler, "_run") if stage == "sample" else (Finisher, "finish")
    whole = getattr(where, name)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fail)
        with pytest.raises(
            RunError, match=r"out of luck\) at images 00000\d_00\d to .*the same command goes on"
        ):
            run(renders, mini_models, out, identities=2)
    run(renders, mini_models, out, identities=2)
    assert tree(out) == tree(plain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("identity,count\n0,4\n", "columns .* expected identity and steps"),
        ("identity,steps\nnobody,4\n", "line 2: identity 'nobody' is not in the source"),
        ("identity,steps\n0,4\n0,5\n", "line 3: identity '0' again"),
        ("identity,steps\n0,none\n", "steps 'none': expected a number from 1 to 1000"),
        ("identity,steps\n0,0\n", "steps '0': expected a number"),
        ("identity,steps\n0\n", "steps None: expected a number"),
    ],
)
def test_step_tables_that_cannot_be_used(
    renders: Path, mini_models: Path, tmp_path: Path, text: str, message: str
) -> None:
    table = tmp_path / "steps.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=message):
        run(renders, mini_models, tmp_path / "out", identity_steps=table)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_interval": (0.6, 0.2)}, "guidance_interval 0.6 0.2: give the lower"),
        ({"guidance_interval": (0.0, 1.2)}, "guidance_interval = .*less than or equal to 1"),
        ({"early_reject": (25, 0.3)}, "early_reject after step 25 of 25: give an earlier step"),
        ({"early_reject": (5, 1.5)}, "early_reject = .*less than or equal to 1"),
    ],
)
def test_recipes_that_contradict_themselves(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe(**settings)


def test_the_report_says_what_early_looks_did(plain: Path, looked: Path, tmp_path: Path) -> None:
    pairs = np.array([[row.cos_early, row.cos_latent] for row in rows(looked)], np.float64)
    page = write_report(looked, out=tmp_path / "looked.html").read_text()
    expected = np.corrcoef(pairs.T)[0, 1]
    (shown,) = re.findall(r'id="early">.*<i>r</i> = (\S+):', page)
    assert float(shown.replace("\N{MINUS SIGN}", "-")) == pytest.approx(expected, abs=0.006)
    assert 'id="early"' not in write_report(plain, out=tmp_path / "plain.html").read_text()
