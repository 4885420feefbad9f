"""What train-transfer may be asked for, and what follows from it."""

from pathlib import Path

import pytest

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.training.config import OWN, TransferRecipe
from d2r_fast.translation.training.objective import linear_decay

VALUES = {
    "epochs": 2, "decay_epochs": 2, "num_patches": 16, "lambda_idt": 1.0, "lambda_var": 1.0, "var_all": True,
    "flow_learning_rate": 1e-3, "lambda_sb": 1.0, "lambda_nce": 1.0, "intended": True, "lambda_vsa": 1.0,
    "hypervector_dim": 64, "vgg": Path("vgg19.pth"),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("method", ["decent", "unsb", "vsait"])
def test_a_setting_of_another_method_is_refused_by_name(name: str, method: str) -> None:
    needed = {"vgg": Path("vgg19.pth")} if method == "vsait" else {}
    if method in OWN[name]:
        assert getattr(TransferRecipe(method=method, **needed | {name: VALUES[name]}), name) == VALUES[name]
        return
    with pytest.raises(UserError, match=f"{name} belongs to .*, not to {method}: leave it out"):
        TransferRecipe(method=method, **needed | {name: VALUES[name]})


def test_a_discriminator_s_width_is_not_vsait_s() -> None:
    with pytest.raises(UserError, match="ndf belongs to decent and unsb"):
        TransferRecipe(method="vsait", vgg=Path("vgg19.pth"), ndf=8)


def test_vsait_needs_vgg() -> None:
    with pytest.raises(UserError, match=r"give its ImageNet weights as vgg"):
        TransferRecipe(method="vsait")


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(UserError, match="load_size 64 is smaller than the crop of 128"):
        TransferRecipe(method="decent", size=128, load_size=64)


@pytest.mark.parametrize(
    ("settings", "scaled"),
    [
        ({"method": "decent"}, 286),
        ({"method": "unsb", "size": 64}, 72),
        ({"method": "vsait", "vgg": Path("vgg19.pth"), "size": 64}, 64),
        ({"method": "decent", "size": 64, "load_size": 70}, 70),
    ],
)
def test_images_are_scaled_as_published(settings: dict[str, object], scaled: int) -> None:
    assert TransferRecipe(**settings).scaled_size == scaled


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"method": "decent"}, 400 * 1000),
        ({"method": "unsb", "batch_size": 3, "epochs": 2, "decay_epochs": 1}, 3 * 333),
        ({"method": "decent", "steps": 7}, 7),
        ({"method": "vsait", "vgg": Path("vgg19.pth")}, 200_000),
    ],
)
def test_an_epoch_is_the_larger_folder(settings: dict[str, object], steps: int) -> None:
    assert TransferRecipe(**settings).num_steps(num_source=1000, num_target=70) == steps


def test_the_learning_rate_is_whole_and_then_falls_once_an_epoch() -> None:
    shares = [linear_decay(step, num_steps=12, epochs=(2, 4)) for step in range(12)]
    assert shares == pytest.approx([1, 1, 1, 1, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2])


def test_without_falling_epochs_the_learning_rate_is_whole() -> None:
    assert {linear_decay(step, num_steps=9, epochs=(3, 0)) for step in range(9)} == {1.0}
