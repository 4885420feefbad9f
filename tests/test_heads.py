"""Margin heads against the published formulas over the whole matrix, and golden numbers of the published code."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.heads import MARGINS, AdaFace, MarginHead, build_head

from .mininetworks import tensor

GOLDEN = json.loads((Path(__file__).parent / "golden" / "heads.json").read_text())
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])
NORMS = torch.tensor([0.001, 1.0, 5.0, 20.0, 60.0, 200.0])[:, None]


def golden_head(kind: str) -> MarginHead:
    head = build_head(kind, embedding_dim=5, num_classes=4, seed=0).double()
    head.kernel.data = tensor(5, 4, key=1).double()
    return head


@pytest.mark.parametrize("kind", MARGINS)
def test_values_and_gradients_are_the_publishers(kind: str) -> None:
    """Three steps of AdaFace's head of its repository, and of arcface_torch's two, in float64."""
    head = golden_head(kind)
    for step, golden in enumerate(GOLDEN["heads"][kind]):
        embeddings = (tensor(6, 5, key=10 + step).double() * NORMS).requires_grad_()
        logits = head(embeddings, LABELS)
        loss = F.cross_entropy(logits, LABELS)
        head.zero_grad()
        loss.backward()
        found = {"logits": logits, "loss": loss, "embedding_gradient": embeddings.grad,
                 "kernel_gradient": head.kernel.grad}  # fmt: skip
        if isinstance(head, AdaFace):
            found |= {"mean": head.batch_mean.squeeze(), "std": head.batch_std.squeeze()}
        assert found.keys() == golden.keys()
        for name, value in found.items():
            wanted = torch.tensor(golden[name], dtype=torch.float64)
            scale = max(1.0, float(wanted.abs().max()))
            torch.testing.assert_close(
                value, wanted, rtol=0, atol=1e-6 * scale, msg=lambda m, n=name: f"{n}: {m}"
            )


def formula(
    kernel: Tensor, embeddings: Tensor, labels: Tensor, *, mean: float, std: float, m: float, h: float
) -> Tensor:
    """AdaFace's equations 8 to 11, with the clips of its code, over the whole matrix."""
    norms = embeddings.norm(dim=1, keepdim=True)
    cosines = F.normalize(embeddings) @ F.normalize(kernel, dim=0)
    k = (h * (norms.detach().clip(0.001, 100) - mean) / (std + 0.001)).clip(-1, 1)
    hot = F.one_hot(labels, kernel.shape[1])
    theta = cosines.clip(-0.999, 0.999).arccos() - m * k * hot
    return 64 * (theta.clip(0.001, math.pi - 0.001).cos() - (m + m * k) * hot)


@pytest.mark.parametrize(("m", "h", "t_alpha"), [(0.4, 0.333, 0.01), (0.5, 0.0, 1.0), (1.2, 2.0, 0.5)])
def test_adaface_is_its_formula(m: float, h: float, t_alpha: float) -> None:
    head = build_head(
        "adaface", embedding_dim=16, num_classes=7, seed=5, margin=m, h=h, t_alpha=t_alpha
    ).double()
    labels = torch.arange(32) % 7
    values = tensor(32, 16, key=2).double() * torch.logspace(-3, 2, 32)[:, None]
    with torch.no_grad():  # cosines of 1 and -1 with their own class, where the clips bite
        values[0], values[1] = 9 * head.kernel[:, 0], -30 * head.kernel[:, 1]
    norms = values.norm(dim=1).clip(0.001, 100)
    mean = t_alpha * float(norms.mean()) + (1 - t_alpha) * 20
    std = t_alpha * float(norms.std()) + (1 - t_alpha) * 100
    first, second = values.clone().requires_grad_(), values.clone().requires_grad_()
    kernel = head.kernel.detach().clone().requires_grad_()
    given, wanted = head(first, labels), formula(kernel, second, labels, mean=mean, std=std, m=m, h=h)
    torch.testing.assert_close(given, wanted, rtol=0, atol=1e-9)
    for logits in (given, wanted):
        F.cross_entropy(logits, labels).backward()
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(head.kernel.grad, kernel.grad, rtol=1e-6, atol=1e-9)


def test_float32_is_float64_to_rounding() -> None:
    head = build_head("adaface", embedding_dim=64, num_classes=50, seed=1)
    twin = build_head("adaface", embedding_dim=64, num_classes=50, seed=1).double()
    values, labels = tensor(16, 64, key=3) * 20, torch.arange(16)
    low, high = head(values, labels), twin(values.double(), labels)
    torch.testing.assert_close(low.double(), high, rtol=0, atol=64e-6)


def test_arcface_is_cos_of_theta_plus_m_with_the_gradient_passed_through() -> None:
    head = golden_head("arcface")
    embeddings = tensor(6, 5, key=4).double().requires_grad_()
    cosines = F.normalize(embeddings) @ F.normalize(head.kernel, dim=0)
    own = cosines.gather(1, LABELS[:, None])
    logits = head(embeddings, LABELS)
    torch.testing.assert_close(logits.gather(1, LABELS[:, None]), 64 * (own.arccos() + 0.5).cos())
    weights = tensor(6, 4, key=5).double()
    (given,) = torch.autograd.grad((logits * weights).sum(), embeddings)
    (wanted,) = torch.autograd.grad((64 * cosines * weights).sum(), embeddings)
    torch.testing.assert_close(given, wanted)


@pytest.mark.parametrize("kind", MARGINS)
def test_gradient_stays_finite_at_the_class_centre(kind: str) -> None:
    head = golden_head(kind)
    embeddings = head.kernel.detach().T[LABELS].clone().requires_grad_()
    F.cross_entropy(head(embeddings, LABELS), LABELS).backward()
    assert embeddings.grad.isfinite().all()
    assert head.kernel.grad.isfinite().all()


def test_statistics_follow_in_training_alone() -> None:
    head = build_head("adaface", embedding_dim=5, num_classes=4, seed=0, t_alpha=0.25)
    values = tensor(6, 5, key=6) * NORMS
    norms = values.norm(dim=1).clip(0.001, 100)
    assert (head.batch_mean.item(), head.batch_std.item(), head.t.item()) == (20, 100, 0)
    head(values, LABELS)
    mean, std = 0.25 * norms.mean() + 15, 0.25 * norms.std() + 75
    assert head.batch_mean.item() == pytest.approx(mean.item(), rel=1e-6)
    assert head.batch_std.item() == pytest.approx(std.item(), rel=1e-6)
    head.eval()
    first, kept = head(values, LABELS), head.batch_mean.clone()
    assert torch.equal(head(values, LABELS), first)
    assert torch.equal(head.batch_mean, kept)


def test_a_larger_norm_has_the_larger_additive_and_the_smaller_angular_margin() -> None:
    head = build_head("adaface", embedding_dim=5, num_classes=4, seed=0, h=1e6).eval()
    direction = tensor(1, 5, key=7)
    direction /= direction.norm()
    theta = (direction @ head.kernel)[:, :1].arccos()
    high, low = (head(norm * direction, torch.tensor([0]))[:, :1] / 64 for norm in (90.0, 1.0))
    torch.testing.assert_close(high, (theta - 0.4).cos() - 0.8, rtol=0, atol=1e-5)
    torch.testing.assert_close(low, (theta + 0.4).cos(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", MARGINS)
def test_autocast_does_not_reach_the_head(kind: str) -> None:
    values = tensor(6, 5, key=8) * 20
    heads = [build_head(kind, embedding_dim=5, num_classes=4, seed=2) for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        cast = heads[0](values, LABELS)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, heads[1](values, LABELS))
    assert heads[0](values.bfloat16(), LABELS).dtype == torch.float32


@pytest.mark.parametrize("kind", MARGINS)
def test_state_is_adafaces(kind: str) -> None:
    head = build_head(kind, embedding_dim=5, num_classes=4, seed=0)
    statistics = {"t": (1,), "batch_mean": (1,), "batch_std": (1,)} if kind == "adaface" else {}
    assert {name: tuple(v.shape) for name, v in head.state_dict().items()} == {"kernel": (5, 4)} | statistics
    assert head.margin == {"adaface": 0.4, "arcface": 0.5, "cosface": 0.4}[kind]


def test_seed_alone_decides_the_kernel() -> None:
    before = torch.get_rng_state()
    first, second, other = (build_head("cosface", embedding_dim=8, num_classes=9, seed=s) for s in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.kernel, second.kernel)
    assert not torch.equal(first.kernel, other.kernel)


def test_kernels_start_as_their_publishers() -> None:
    """AdaFace's columns at unit length; InsightFace's N(0, 0.01), which turn faster for being short."""
    adaface, arcface = (
        build_head(kind, embedding_dim=512, num_classes=200, seed=0).kernel.detach()
        for kind in ("adaface", "arcface")
    )
    torch.testing.assert_close(adaface.norm(dim=0), torch.ones(200))
    assert abs(arcface.std().item() - 0.01) < 1e-4
    assert abs(arcface.mean().item()) < 1e-4


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_out_of_range_are_refused(label: int) -> None:
    head = build_head("arcface", embedding_dim=5, num_classes=4, seed=0)
    labels = torch.tensor([0, label, 1, 1, 2, 0])
    with pytest.raises(UserError, match=r"labels run from -?\d to \d, the head has classes 0 to 3: give"):
        head(tensor(6, 5), labels)


def test_one_row_has_no_deviation() -> None:
    head = build_head("adaface", embedding_dim=5, num_classes=4, seed=0)
    with pytest.raises(UserError, match="give batches of 2 or more"):
        head(tensor(1, 5), LABELS[:1])
    assert head.batch_std.item() == 100


RANK = """
import sys
import torch
import torch.distributed as dist
from d2r_fast.recognition.heads import build_head


def work(rank, folder):
    rows = torch.load(f"{folder}/rows.pt").tensor_split([2])[rank]
    head = build_head("adaface", embedding_dim=5, num_classes=4, seed=0, t_alpha=0.5, group=dist.group.WORLD)
    head(rows, torch.zeros(len(rows), dtype=torch.int64))
    torch.save((head.batch_mean, head.batch_std), f"{folder}/{rank}.pt")


rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
work(rank, folder)  # whose head, and its hold on the group, is gone before the group is: gloo aborts otherwise
dist.barrier()
dist.destroy_process_group()
"""


def test_statistics_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    """With batches of unequal length, 2 and 4 rows, as unreadable images leave them."""
    rows = tensor(6, 5, key=9) * NORMS
    torch.save(rows, tmp_path / "rows.pt")
    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(120) for process in ranks] == [0, 0]
    head = build_head("adaface", embedding_dim=5, num_classes=4, seed=0, t_alpha=0.5)
    head(rows, torch.zeros(6, dtype=torch.int64))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first == second
    torch.testing.assert_close(first, (head.batch_mean, head.batch_std), rtol=1e-6, atol=0)
