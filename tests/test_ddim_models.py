"""Which diffusion models are read, as what, and what is said of the others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMInverseScheduler, DDIMScheduler, UNet2DModel, VQModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.diffusion.compvis import AVERAGED, AVERAGES, FIRST_STAGE, UNET
from d2r_fast.translation.diffusion.compvis_unet import unet_config
from d2r_fast.translation.diffusion.method import DdimInversion
from d2r_fast.translation.diffusion.networks import DecoderGraph
from d2r_fast.translation.diffusion.random_weights import SIZES, unet_shapes, vq_shapes, write_random_weights
from d2r_fast.translation.gan.random_weights import write_random_weights as write_gan

from .minildm import MINI, STEEP, state_dict, write_checkpoint, write_folder
from .mininetworks import tensor

GOLDEN = json.loads((Path(__file__).parent / "golden" / "latent_diffusion.json").read_text())
Table = dict[str, Tensor]


def recipe(**values: Any) -> TranslateRecipe:
    return TranslateRecipe(**{"method": "ddim-inversion", "size": 32, "steps": 3} | values)


def open_model(path: Path, **values: Any) -> DdimInversion:
    return DdimInversion.open(path, recipe(**values))


def outputs(method: DdimInversion, name: str, **inputs: Tensor) -> Tensor:
    network = next(network for network in method.networks((28, 28)) if network.name == name)
    (port,) = network.outputs
    return network.reference(inputs)[port.name]


def translate(method: DdimInversion, images: Tensor) -> Tensor:
    size = (images.shape[1], images.shape[2])
    networks = {network.name: network.reference for network in method.networks(size)}
    keys = torch.zeros(len(images), 2, dtype=torch.int64)
    return method.finish(method.run(networks, method.prepare(images), keys), size)


def agrees(given: Tensor, golden: dict[str, Any]) -> None:
    rows, norms = given.double().flatten(1), torch.tensor(golden["norms"]).double()
    torch.testing.assert_close(rows.norm(dim=1), norms, rtol=1e-5, atol=0)
    torch.testing.assert_close(rows[:, :6], torch.tensor(golden["first"]).double(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["mini", "steep"])
def test_networks_are_compvis(tmp_path: Path, name: str) -> None:
    """Golden numbers of CompVis' UNetModel and VQModelInterface with the running averages, which load strictly."""
    golden, size = GOLDEN[name], MINI if name == "mini" else STEEP
    path = write_checkpoint(tmp_path / "model.ckpt", state_dict(size))
    method = open_model(path, size=golden["side"] * 2 ** (len(size.vq_widths) - 1))
    x = tensor(2, size.channels, golden["side"], golden["side"], key=77) * 1.7
    agrees(outputs(method, "ldm-unet", latents=x, timesteps=torch.tensor([3, 981])), golden["unet"])
    method = open_model(path, size=golden["pixels"])
    latents = outputs(method, "ldm-encoder", images=tensor(2, 3, 32, 32, key=78))
    agrees(latents, golden["encoder"])
    decoder = next(network for network in method.networks((28, 28)) if network.name == "ldm-decoder").module
    assert isinstance(decoder, DecoderGraph)
    assert decoder.quantise.nearest(latents).flatten(1)[:, :12].tolist() == golden["codes"]
    agrees(outputs(method, "ldm-decoder", latents=latents), golden["decoder"])


def test_the_released_model_by_its_shapes() -> None:
    """models/ldm/ffhq256: 274 M parameters, counted from CompVis' UNetModel, and 55 M of the first stage."""
    unet = {name: torch.empty(shape, device="meta") for name, shape in unet_shapes(SIZES["full"])}
    assert sum(value.numel() for value in unet.values()) == 274_056_163
    assert sum(torch.Size(shape).numel() for _, shape in vq_shapes(SIZES["full"])) == 55_322_782
    config = unet_config(unet, name="full")
    assert config["block_out_channels"] == (224, 448, 672, 896)
    assert config["down_block_types"] == ("DownBlock2D", *["AttnDownBlock2D"] * 3)
    assert config["up_block_types"] == (*["AttnUpBlock2D"] * 3, "UpBlock2D")
    assert config["layers_per_block"] == 2


def test_random_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_random_weights(tmp_path / name, size="mini", seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c
    method = open_model(tmp_path / "a", steps=8)
    images = torch.randint(
        0, 256, (2, 28, 28, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    translated = translate(method, images)
    assert translated.shape == images.shape
    assert translated.float().std(dim=(1, 2, 3)).min() > 20


def test_the_last_steps_weights_where_there_are_no_averages(tmp_path: Path) -> None:
    table = state_dict()
    last = {name: value for name, value in table.items() if not name.startswith(AVERAGES)}
    swapped = last | {
        name: table[AVERAGES + (AVERAGED + name.removeprefix(UNET)).replace(".", "")]
        for name in table
        if name.startswith(UNET)
    }
    x, t = tensor(1, 3, 16, 16, key=7), torch.tensor([500])
    whole, without, moved = (
        outputs(
            open_model(write_checkpoint(tmp_path / "m.ckpt", content)), "ldm-unet", latents=x, timesteps=t
        )
        for content in (table, last, swapped)
    )
    assert not torch.allclose(whole, without, atol=1e-2)
    assert torch.equal(whole, moved)


def test_safetensors_are_the_same_model(tmp_path: Path) -> None:
    table = state_dict()
    save_file(table, tmp_path / "model.safetensors")
    write_checkpoint(tmp_path / "model.ckpt", table)
    images = (tensor(1, 3, 32, 32, key=3) * 127 + 128).permute(0, 2, 3, 1).to(torch.uint8)
    first, second = (
        translate(open_model(tmp_path / f"model.{kind}"), images) for kind in ("ckpt", "safetensors")
    )
    assert torch.equal(first, second)


def test_the_checkpoints_own_schedule_and_scale(tmp_path: Path) -> None:
    table = state_dict() | {
        "alphas_cumprod": torch.linspace(0.9, 0.1, 200),
        "scale_factor": torch.tensor(0.25),
    }
    method = open_model(write_checkpoint(tmp_path / "m.ckpt", table), steps=4)
    assert method.walk.timesteps == (1, 51, 101, 151)
    assert method.walk.alphas[0] == pytest.approx(0.9)
    plain = open_model(write_checkpoint(tmp_path / "plain.ckpt", state_dict()))
    images = tensor(1, 3, 32, 32, key=3)
    latents = outputs(plain, "ldm-encoder", images=images)
    torch.testing.assert_close(outputs(method, "ldm-encoder", images=images), latents / 4)
    torch.testing.assert_close(
        outputs(method, "ldm-decoder", latents=latents / 4), outputs(plain, "ldm-decoder", latents=latents)
    )


def _without(prefix: str) -> Callable[[Table], Table]:
    return lambda table: {name: value for name, value in table.items() if not name.startswith(prefix)}


def _with(**extra: Tensor) -> Callable[[Table], Table]:
    return lambda table: table | {name.replace("__", "."): value for name, value in extra.items()}


def _bare(table: Table) -> Table:
    return {name.removeprefix(UNET): value for name, value in table.items() if name.startswith(UNET)}


ONE = torch.zeros(1)
REFUSED: dict[str, tuple[Callable[[Table], Table], str]] = {
    "no first stage": (_without(FIRST_STAGE), "has no whole first stage"),
    "half a first stage": (_without(f"{FIRST_STAGE}decoder"), "has no whole first stage"),
    "KL": (_without(f"{FIRST_STAGE}quantize"), r"has a first stage without a code book \(KL\)"),
    "half the averages": (_without(f"{AVERAGES}diffusion_modelout"), r"averages \(model_ema.*lacks those of 66"),
    "classes": (_with(model__diffusion_model__label_emb__weight=ONE), "is a class-conditional model"),
    "text": (
        _with(model__diffusion_model__input_blocks__1__1__transformer_blocks__0__norm1__weight=ONE),
        "is a model conditioned by cross-attention",
    ),
    "condition": (_with(cond_stage_model__embedding__weight=ONE), "is a conditional model"),
    "no UNet": (_without(f"{UNET}input_blocks.0"), "holds no network known here|holds no whole"),
    "something else": (_with(sr_model__weight=ONE), "1 tensors that no unconditional latent-diffusion model has"),
    "a UNet alone": (
        _bare, "is a guided-diffusion UNet, whose file holds no schedule: ddim-inversion takes a latent-diff",
    ),
    "a bad schedule": (_with(alphas_cumprod=torch.linspace(0.1, 0.9, 100)), "alphas_cumprod does not fall"),
    "more channels": (
        _with(**{f"{UNET}input_blocks__0__0__weight": torch.zeros(32, 6, 3, 3)}), "takes 6 channels and gives 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_checkpoints_that_do_not_do(tmp_path: Path, name: str) -> None:
    change, line = REFUSED[name]
    table = change(state_dict())
    for counted in (key for key in list(table) if key.startswith(AVERAGES)):
        if name in ("classes", "text", "more channels", "no UNet"):
            table.pop(counted)
    path = write_checkpoint(tmp_path / "model.ckpt", table)
    with pytest.raises(UserError, match=line) as error:
        open_model(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda table: table.pop(f"{FIRST_STAGE}encoder.conv_out.bias"), "missing 1 .*conv_out.bias"),
        (
            lambda table: table.update({f"{FIRST_STAGE}encoder.extra.bias": ONE}),
            "too many: 1 .encoder.extra.bias",
        ),
        (
            lambda table: table[f"{FIRST_STAGE}quant_conv.bias"].fill_(torch.nan),
            "not finite: 1 .quant_conv.bias",
        ),
    ],
)
def test_tensors_are_named_on_loading(tmp_path: Path, change: Callable[[Table], None], line: str) -> None:
    table = state_dict()
    change(table)
    method = open_model(write_checkpoint(tmp_path / "model.ckpt", table))
    with pytest.raises(UserError, match=line):
        method.networks((28, 28))[0].load()


def test_another_methods_checkpoint(tmp_path: Path) -> None:
    write_gan(tmp_path / "g.pth", method="decent", size="mini")
    with pytest.raises(UserError, match=r"is DECENT's generator .*: give --method decent"):
        open_model(tmp_path / "g.pth")
    with pytest.raises(UserError, match="is missing"):
        open_model(tmp_path / "nothing.ckpt")


def test_sizes_and_steps(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model.ckpt", state_dict())
    with pytest.raises(UserError, match="size 34: this model takes multiples of 4 pixels"):
        open_model(path, size=34)
    short = state_dict() | {"alphas_cumprod": torch.linspace(0.9, 0.1, 200)}
    write_checkpoint(tmp_path / "short.ckpt", short)
    with pytest.raises(UserError, match="steps 300: the model was trained on 200 timesteps"):
        open_model(tmp_path / "short.ckpt", steps=300)
    method = DdimInversion.open(path, TranslateRecipe(method="ddim-inversion"))
    assert (method.side, len(method.walk.timesteps)) == (256, 50)
    assert method.breach is None


def test_a_folder_is_what_diffusers_makes_of_it(tmp_path: Path) -> None:
    """Encoding, both walks and decoding by diffusers' own classes and schedulers."""
    folder = write_folder(tmp_path, scheduler={"steps_offset": 1, "set_alpha_to_one": False})
    method = open_model(folder, steps=5, size=None)
    assert method.side == 32
    images = (tensor(2, 3, 32, 32, key=3) * 127 + 128).permute(0, 2, 3, 1).to(torch.uint8)
    unet, vq = UNet2DModel.from_pretrained(folder / "unet"), VQModel.from_pretrained(folder / "vqvae")
    config = DDIMScheduler.load_config(folder / "scheduler") | {"clip_sample": False}
    with torch.inference_mode():
        x = vq.encode(images.permute(0, 3, 1, 2) / 127.5 - 1).latents * 0.5
        for scheduler in (DDIMInverseScheduler.from_config(config), DDIMScheduler.from_config(config)):
            scheduler.set_timesteps(5)
            for timestep in scheduler.timesteps:
                x = scheduler.step(unet(x, timestep).sample, int(timestep), x).prev_sample
        wanted = vq.decode(x / 0.5).sample
    wanted = ((wanted.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)
    assert (translate(method, images).float() - wanted).abs().max() <= 1


def test_a_folder_of_pixels(tmp_path: Path) -> None:
    """As google/ddpm-*: everything in one folder, DDPM's scheduler, no first stage."""
    method = open_model(write_folder(tmp_path, first_stage=False), size=None)
    assert [network.name for network in method.networks((28, 28))] == ["ldm-unet"]
    assert method.side == 16
    images = torch.randint(
        0, 256, (1, 28, 28, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    assert translate(method, images).shape == images.shape


def test_old_names_and_pickles(tmp_path: Path) -> None:
    """The hub's files are from when attention had other names, and some are pickles."""
    new, old = write_folder(tmp_path / "new"), write_folder(tmp_path / "old")
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for part in ("unet", "vqvae"):
        file = old / part / "diffusion_pytorch_model.safetensors"
        table = {}
        for name, value in load_file(file).items():
            for now, then in names.items():
                name = name.replace(now, then)
            table[name] = value
        assert any("proj_attn" in name for name in table)
        file.unlink()
        torch.save(table, file.with_suffix(".bin"))
    images = torch.randint(
        0, 256, (1, 28, 28, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    assert torch.equal(translate(open_model(new), images), translate(open_model(old), images))


def test_scaling_factors_that_are_not_written(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    assert open_model(folder).model.scale == 0.5
    edit(folder / "vqvae" / "config.json", lambda config: config.pop("scaling_factor"))
    assert open_model(folder).model.scale == 1


def test_a_kl_first_stage_gives_its_mean(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    for file in (folder / "vqvae").iterdir():
        file.unlink()
    kl = AutoencoderKL(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=3,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=32,
    )  # fmt: skip
    kl.save_pretrained(folder / "vqvae")
    edit(folder / "vqvae" / "config.json", lambda config: config.pop("scaling_factor"))
    method, images = open_model(folder), tensor(2, 3, 32, 32, key=3)
    with torch.inference_mode():
        wanted = kl.encode(images).latent_dist.mean * 0.18215
        back = kl.decode(wanted / 0.18215).sample
    torch.testing.assert_close(outputs(method, "ldm-encoder", images=images), wanted)
    torch.testing.assert_close(outputs(method, "ldm-decoder", latents=wanted), back)


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


UNET_CONFIG, SCHEDULER_CONFIG = "unet/config.json", "scheduler/scheduler_config.json"
REFUSED_FOLDERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "text": (UNET_CONFIG, {"_class_name": "UNet2DConditionModel"}, "is of a model conditioned by text"),
    "another network": (UNET_CONFIG, {"_class_name": "DiTTransformer2DModel"}, "expected a UNet2DModel"),
    "classes": (UNET_CONFIG, {"num_class_embeds": 10}, "is of a class-conditional model"),
    "ncsnpp": (UNET_CONFIG, {"time_embedding_type": "fourier"}, r"variance-exploding \(score\) model"),
    "nonsense": (UNET_CONFIG, {"norm_num_groups": 7}, "does not describe a UNet2DModel"),
    "variances": (UNET_CONFIG, {"out_channels": 6}, "takes 3 channels and gives 6"),
    "other latents": (
        UNET_CONFIG,
        {"in_channels": 4, "out_channels": 4},
        "makes 3 channels and the UNet takes 4",
    ),
    "VE schedule": (SCHEDULER_CONFIG, {"sigma_min": 0.01}, r"variance-exploding \(score\) model"),
    "v": (SCHEDULER_CONFIG, {"prediction_type": "v_prediction"}, r"predicts v_prediction, not the noise"),
    "zero SNR": (SCHEDULER_CONFIG, {"rescale_betas_zero_snr": True}, "its last timestep is noise alone"),
    "bad betas": (SCHEDULER_CONFIG, {"beta_end": 3}, "beta_end is 3, expected"),
    "flow": (SCHEDULER_CONFIG, {"beta_schedule": "flow"}, "beta_schedule is 'flow', expected"),
    "another first stage": (
        "vqvae/config.json",
        {"_class_name": "AsymmetricAutoencoderKL"},
        "expected a VQModel",
    ),
    "shifted": ("vqvae/config.json", {"shift_factor": 0.1}, "shifts its latents"),
}


@pytest.mark.parametrize("name", REFUSED_FOLDERS)
def test_folders_that_do_not_do(tmp_path: Path, name: str) -> None:
    file, changes, line = REFUSED_FOLDERS[name]
    folder = write_folder(tmp_path)
    edit(folder / file, lambda config: config.update(changes))
    with pytest.raises(UserError, match=line) as error:
        open_model(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("scheduler/scheduler_config.json", "scheduler_config.json is missing"),
        ("unet/config.json", "unet/config.json is missing: give the folder of an unconditional model"),
        ("unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors is missing"),
        ("vqvae/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors is missing"),
    ],
)
def test_folders_that_lack_a_file(tmp_path: Path, file: str, line: str) -> None:
    folder = write_folder(tmp_path)
    (folder / file).unlink()
    with pytest.raises(UserError, match=line):
        open_model(folder)


def test_a_folder_that_lost_its_first_stage(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    for file in (folder / "vqvae").iterdir():
        file.unlink()
    edit(folder / UNET_CONFIG, lambda config: config.update(in_channels=4, out_channels=4))
    with pytest.raises(UserError, match=r"works on 4 channels, which are not pixels, and no first stage"):
        open_model(folder)
