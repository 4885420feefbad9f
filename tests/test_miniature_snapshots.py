"""What a snapshot of the miniature world adds to a photograph: a head's own shadows, and a room behind it."""

import torch

from d2r_fast.bench.miniature.camera import pose
from d2r_fast.bench.miniature.clutter import clutter
from d2r_fast.bench.miniature.domains import draw, light_studio
from d2r_fast.bench.miniature.head import PARTS, Head
from d2r_fast.bench.miniature.shadow import lit
from d2r_fast.bench.miniature.world import cast, stage

CPU = torch.device("cpu")


def square(middle: tuple[float, float, float], half: float) -> torch.Tensor:
    """Corners (4, 3) of a square that faces +z."""
    corners = torch.tensor([[-half, -half, 0], [half, -half, 0], [half, half, 0], [-half, half, 0]])
    return corners + torch.tensor(middle)


def test_what_lies_behind_something_is_not_lit() -> None:
    places = torch.tensor([[0.0, 0, 0], [4, 0, 0], [-8, 6, 0]])
    points = torch.cat([square((0, 0, -0.1), 15), square((0, 0, 5), 2), places])
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    ahead = lit(points, triangles, (0.0, 0.0, 1.0))
    assert ahead[-3:].tolist() == [0, 1, 1]
    assert ahead[4:8].tolist() == [1, 1, 1, 1], "what casts the shadow"
    aside = lit(points, triangles, (0.6, 0.0, 0.8))
    assert aside[-3:].tolist() == [1, 1, 1], "its shadow has moved to x = -3.75"
    moved = torch.cat([points, torch.tensor([[-3.75, 0.0, 0.0]])])
    assert lit(moved, triangles, (0.6, 0.0, 0.8))[-1] == 0


def test_a_nose_shades_the_cheek_that_is_away_from_the_light(head: Head) -> None:
    vertices = head.shape(cast(0, 1).coefficients, {})
    turned = pose(vertices, stage(0, 1, 0))
    assert lit(turned, head.triangles, (0.0, 0.0, 1.0))[: PARTS["face"][1]].mean() > 0.6
    share = lit(vertices, head.triangles, (0.8, 0.0, 0.6))
    x, y, z = head.neutral.unbind(1)
    beside = (y.abs() < 1) & (z > 5) & (x.abs() > 1.2) & (x.abs() < 3)
    assert share[beside & (x > 0)].mean() > share[beside & (x < 0)].mean() + 0.3


def test_a_room_is_a_function_of_seed_identity_and_image() -> None:
    first = clutter(0, 3, 1, 64, CPU)
    assert first.shape == (64, 64, 3)
    assert torch.equal(clutter(0, 3, 1, 64, CPU), first)
    assert 0 <= first.min() <= first.max() <= 1
    others = [clutter(1, 3, 1, 64, CPU), clutter(0, 4, 1, 64, CPU), clutter(0, 3, 2, 64, CPU)]
    assert all((other - first).abs().mean() > 0.02 for other in others)
    large = clutter(0, 3, 1, 128, CPU).view(64, 2, 64, 2, 3).mean((1, 3))
    assert (large - first).abs().mean() < 0.02, "the same room at any size"


def test_snapshots_depend_on_seed_identity_and_image_alone_and_are_no_photographs(head: Head) -> None:
    pictures = [(3, 0), (3, 1), (7, 0)]
    whole = draw("snapshots", head, pictures, seed=0)
    assert torch.equal(draw("snapshots", head, pictures[1:2], seed=0)[0], whole[1])
    apart = (draw("photographs", head, pictures, seed=0).float() - whole.float()).abs().mean((1, 2, 3))
    assert (apart > 4).all()


def test_in_a_studio_a_face_has_the_same_colour_in_every_picture(head: Head) -> None:
    pictures = [(3, image) for image in range(8)]
    spread = {}
    for domain in ("studio", "renders"):
        faces = draw(domain, head, pictures, seed=0, side=64)[:, 20:44, 20:44].float()
        spread[domain] = faces.mean((1, 2)).std(0).mean()
    assert spread["studio"] < spread["renders"] / 2
    shots = [stage(0, *picture) for picture in pictures]
    lit_alike = [light_studio(shot) for shot in shots]
    assert len({(shot.light, shot.light_colour, shot.ambient_colour) for shot in lit_alike}) == 1
    assert [shot.yaw for shot in lit_alike] == [shot.yaw for shot in shots]
