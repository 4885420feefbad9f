"""Philox against published known answers and exact integers; the numbers drawn with it against their laws."""

import numpy as np
import pytest
import torch
from scipy import stats

from d2r_fast.kernels import noise
from d2r_fast.kernels.noise import CHOICE, MIX, identity_key, normal, philox, uniform

GOLDEN_KEYS = (1786884285633530058, 900539024851132865)
GOLDEN_NORMAL = [[-0.34294432, 0.92696822, 0.66533452], [-0.69861186, -1.02296233, -0.32971555]]
GOLDEN_UNIFORM = [[0.6135825792575246, 0.7888307473719208], [0.4642856886271941, 0.9208345488646913]]


def words(*values: int) -> list[torch.Tensor]:
    return [torch.tensor([value]) for value in values]


def make_keys(
    num: int, *, seed: int = 0, identity: str = "a", attempt: int = 0, step: int = 0
) -> torch.Tensor:
    """Keys of images 0..num-1 of one identity."""
    key = identity_key(seed, identity)
    return torch.tensor([[key, image, attempt, step] for image in range(num)])


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(
    counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]
) -> None:
    assert tuple(int(word) for word in philox(words(*counter), words(*key))) == answer


def exact_philox(counter: list[int], key: list[int]) -> list[int]:
    """The definition in Python's unbounded integers."""
    for _ in range(10):
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [
            second >> 32 ^ counter[1] ^ key[0],
            second & 0xFFFFFFFF,
            first >> 32 ^ counter[3] ^ key[1],
            first & 0xFFFFFFFF,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def test_philox_is_exact_for_random_and_extreme_words() -> None:
    rng = np.random.default_rng(0)
    extreme = rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1], size=(200, 6))
    draw = np.concatenate((rng.integers(0, 2**32, size=(300, 6)), extreme))
    columns = torch.from_numpy(draw).unbind(1)
    ours = torch.stack(philox(columns[:4], columns[4:]), dim=1).tolist()
    assert ours == [exact_philox(row[:4], row[4:]) for row in draw.tolist()]


def test_counter_and_key_layout() -> None:
    """Element i of a stream is word i % 4 of block i // 4, under the identity key's low and high halves."""
    identity = identity_key(5, "1000")
    key = [identity & 0xFFFFFFFF, identity >> 32 & 0xFFFFFFFF]
    stream = [w for block in range(3) for w in exact_philox([block, 7, 2, 9], key)]
    pairs = np.array(stream, dtype=np.uint64).reshape(-1, 2)
    expected = (
        (pairs[:, 0] << np.uint64(20) | pairs[:, 1] >> np.uint64(12)) * np.uint64(2) + np.uint64(1)
    ) * 2.0**-53
    assert uniform(torch.tensor([[identity, 7, 2, 9]]), 6)[0].tolist() == expected.tolist()
    u = np.array(stream[:4]) * 2.0**-32 + np.array([2.0**-33, 0, 2.0**-33, 0])
    radius = np.sqrt(-2 * np.log(u[::2]))
    boxed = np.stack((radius * np.cos(2 * np.pi * u[1::2]), radius * np.sin(2 * np.pi * u[1::2])), 1).ravel()
    np.testing.assert_allclose(normal(torch.tensor([[identity, 7, 2, 9]]), (4,))[0].numpy(), boxed, rtol=1e-6)


def test_golden_values_never_change() -> None:
    """A dataset begun with one release must go on with the next."""
    assert identity_key(0, "") == GOLDEN_KEYS[0]
    assert identity_key(23, "100000") == GOLDEN_KEYS[1]
    keys = make_keys(2, seed=23, identity="100000", attempt=1, step=3)
    np.testing.assert_allclose(normal(keys, (3,)).numpy(), GOLDEN_NORMAL, rtol=1e-6)
    np.testing.assert_allclose(uniform(keys, 2).numpy(), GOLDEN_UNIFORM, rtol=1e-15)


def test_identity_keys_are_unambiguous() -> None:
    pairs = [
        (s, n) for s in (0, 1, 49, 256, 2**62) for n in ("", "0", "1", "01", "é", "e\u0301", "\udce9", "a/b")
    ]
    keys = [identity_key(*pair) for pair in pairs]
    assert len(set(keys)) == len(pairs)
    assert all(-(2**63) <= key < 2**63 for key in keys)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_refuses_a_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= seed"):
        identity_key(seed, "a")


def test_normals_follow_their_law() -> None:
    x = normal(make_keys(64), (4, 64, 64)).double().flatten()
    assert abs(float(x.mean())) < 4 / len(x) ** 0.5
    assert float(x.var()) == pytest.approx(1, abs=4 * (2 / len(x)) ** 0.5)
    assert float((x**3).mean()) == pytest.approx(0, abs=4 * (15 / len(x)) ** 0.5)
    assert float((x**4).mean()) == pytest.approx(3, abs=4 * (96 / len(x)) ** 0.5)
    assert float(x.abs().max()) < 6.8
    assert stats.kstest(x.numpy(), "norm").pvalue > 1e-3


def test_each_of_the_four_words_is_normal_and_uncorrelated_with_the_others() -> None:
    lanes = normal(make_keys(16), (4, 64, 64)).double().reshape(-1, 4)
    assert all(stats.kstest(lane.numpy(), "norm").pvalue > 1e-3 for lane in lanes.unbind(1))
    correlation = torch.corrcoef(lanes.T) - torch.eye(4, dtype=torch.float64)
    assert float(correlation.abs().max()) < 4.5 / len(lanes) ** 0.5
    squares = torch.corrcoef((lanes**2).T) - torch.eye(4, dtype=torch.float64)
    assert float(squares.abs().max()) < 4.5 / len(lanes) ** 0.5


@pytest.mark.parametrize("word", ["identity", "image", "attempt", "step", "seed"])
def test_neighbouring_keys_are_uncorrelated(word: str) -> None:
    base = {"identity": 0, "image": 0, "attempt": 0, "step": 0, "seed": 0}
    rows = []
    for value in range(32):
        at = base | {word: value}
        rows.append([identity_key(at["seed"], str(at["identity"])), at["image"], at["attempt"], at["step"]])
    x = normal(torch.tensor(rows), (64, 64)).double().flatten(1)
    off_diagonal = torch.corrcoef(x) - torch.eye(32, dtype=torch.float64)
    assert float(off_diagonal.abs().max()) < 5 / x.shape[1] ** 0.5
    shifted = torch.corrcoef(torch.cat((x[:, 1:], x[:, :-1])))[:32, 32:]
    assert float(shifted.abs().max()) < 5 / x.shape[1] ** 0.5


def test_uniforms_follow_their_law() -> None:
    u = uniform(make_keys(50), 4001)
    assert u.dtype == torch.float64
    assert u.shape == (50, 4001)
    assert 0 < float(u.min()) < 1e-4
    assert 1 - 1e-4 < float(u.max()) < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    low_bits = (u * 2**53).long() >> 1 & 0xFFFF
    assert stats.chisquare(np.bincount(low_bits.flatten().numpy() >> 8, minlength=256)).pvalue > 1e-3


@pytest.mark.parametrize("word", [0, 1, 2**31, 2**32 - 1])
def test_extreme_words_give_open_uniforms_and_finite_normals(
    word: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "philox", lambda counter, key: (torch.full((1, 1), word),) * 4)
    assert 0 < float(uniform(make_keys(1), 1)) < 1
    assert float(normal(make_keys(1), (4,)).abs().max()) < 6.8


def test_rows_depend_on_their_key_alone() -> None:
    keys = torch.cat(
        [make_keys(5, identity=name, step=step) for name in ("a", "b") for step in (0, CHOICE, MIX)]
    )
    whole, fractions = normal(keys, (4, 64, 64)), uniform(keys, 7)
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(0))
    assert torch.equal(normal(keys[order], (4, 64, 64)), whole[order])
    assert torch.equal(uniform(keys[order], 7), fractions[order])
    assert all(torch.equal(normal(keys[i : i + 1], (4, 64, 64))[0], whole[i]) for i in range(len(keys)))
    assert len({tuple(row[:2].tolist()) for row in fractions}) == len(keys)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5,), (4, 3, 7), (4, 15, 10)])
def test_odd_shapes_are_the_start_of_the_same_stream(shape: tuple[int, ...]) -> None:
    keys = make_keys(3)
    x = normal(keys, shape)
    assert x.shape == (3, *shape)
    assert x.dtype == torch.float32
    assert torch.equal(x.reshape(3, -1), normal(keys, (1000,))[:, : x[0].numel()])


def test_no_keys_and_no_elements() -> None:
    assert normal(torch.empty((0, 4), dtype=torch.int64), (4, 8, 8)).shape == (0, 4, 8, 8)
    assert uniform(make_keys(2), 0).shape == (2, 0)


def test_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    normal(make_keys(2), (9,))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "keys",
    [torch.zeros(2, 3, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), torch.zeros(2, 4).int(),
     torch.tensor([[0, -1, 0, 0]]), torch.tensor([[0, 0, 2**32, 0]])],
)  # fmt: skip
def test_refuses_malformed_keys(keys: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"keys are|of a key"):
        normal(keys, (4,))
