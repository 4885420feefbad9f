"""Evaluation results made from seeds: what a network of a given skill would score, curves included."""

from collections.abc import Mapping

import numpy as np

from d2r_fast.recognition.evaluation.results import SuiteResult
from d2r_fast.recognition.evaluation.roc import Roc, equal_error_rate, roc_curve, tar_at_far

RACES = ("African", "Asian", "Caucasian", "Indian")


def made_roc(seed: int, *, skill: float, num_pairs: int = 6000, num_impostor: int | None = None) -> Roc:
    """The curve of normal scores, genuine ones `skill` standard deviations above impostors."""
    random = np.random.default_rng(seed)
    impostor = random.normal(size=num_impostor or num_pairs // 2)
    genuine = random.normal(loc=skill, size=num_pairs // 2)
    same = np.repeat([True, False], [len(genuine), len(impostor)])
    return roc_curve(np.concatenate([genuine, impostor]), same)


def made_pairs(suite: str, seed: int, *, skill: float, num_unreadable: int = 0) -> SuiteResult:
    """A pairs benchmark of 6,000."""
    random, roc = np.random.default_rng(seed), made_roc(seed, skill=skill)
    folds = np.clip(1 - equal_error_rate(roc) + random.normal(scale=0.006, size=10), 0, 1)
    return SuiteResult(
        suite=suite,
        accuracy=float(folds.mean()),
        std=float(folds.std()),
        folds=tuple(map(float, folds)),
        thresholds=tuple(float(value) for value in 1.4 + 0.01 * random.integers(-3, 4, size=10)),
        tar_at_far={name: point.result for name, point in tar_at_far(roc).items()},
        eer=equal_error_rate(roc),
        num_genuine=roc.num_genuine,
        num_impostor=roc.num_impostor,
        num_unreadable=num_unreadable,
        roc=roc,
        seconds=12.3,
    )


def made_templates(suite: str, seed: int, *, skill: float, num_impostor: int = 200_000) -> SuiteResult:
    """A template benchmark."""
    roc = made_roc(seed, skill=skill, num_impostor=num_impostor)
    return SuiteResult(
        suite=suite,
        tar_at_far={name: point.result for name, point in tar_at_far(roc).items()},
        eer=equal_error_rate(roc),
        num_genuine=roc.num_genuine,
        num_impostor=roc.num_impostor,
        fusion="F1N1D1",
        roc=roc,
        seconds=83.0,
    )


def made_rfw(seed: int, *, skills: Mapping[str, float]) -> SuiteResult:
    """RFW: a result per race, their mean and population standard deviation."""
    races = {
        race: made_pairs(race, seed + index, skill=skill)
        for index, (race, skill) in enumerate(skills.items())
    }
    accuracies = [result.accuracy for result in races.values() if result.accuracy is not None]
    return SuiteResult(
        suite="rfw",
        accuracy=float(np.mean(accuracies)),
        std=float(np.std(accuracies)),
        num_genuine=sum(result.num_genuine for result in races.values()),
        num_impostor=sum(result.num_impostor for result in races.values()),
        races=races,
    )


def made_run(seed: int) -> list[SuiteResult]:
    """Every suite of the papers, and CFP-FF."""
    skills = {"lfw": 4.6, "calfw": 3.4, "cplfw": 2.9, "agedb_30": 3.1, "cfp_fp": 3.3, "cfp_ff": 4.2}
    pairs = [
        made_pairs(suite, 100 * seed + index, skill=skill)
        for index, (suite, skill) in enumerate(skills.items())
    ]
    return [
        *pairs,
        made_templates("ijbb", 100 * seed + 20, skill=4.0),
        made_templates("ijbc", 100 * seed + 21, skill=4.4),
        made_rfw(100 * seed + 30, skills=dict(zip(RACES, (2.6, 2.5, 3.1, 2.7), strict=True))),
    ]
