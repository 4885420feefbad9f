"""A small, cheap camera: what becomes of linear light on its way to a picture in a file.

    photographs = photograph(light, keys)

In the order of the hardware: lens (falloff towards the corners, blur), exposure and white balance, photon and read
noise of a colour sensor, the maker's tone curve and colours, JPEG. Each picture is a function of its light and key.
"""

import torch
from torch.nn.functional import conv2d, pad

from d2r_fast.kernels.noise import normal, uniform
from d2r_fast.recognition.training.jpeg import jpeg

FALLOFF = 0.5
"""Share of the light that is lost in the corners."""
BLUR = (0.6, 0.8)
"""Standard deviation of the lens's spot in pixels of the picture, least and most."""
BALANCE = (1.22, 1.0, 0.62)
"""Gain of red, green and blue: a camera set for daylight, under a lamp."""
SPREAD = 0.06
"""How much exposure and balance differ from picture to picture."""
SHOT_NOISE, READ_NOISE = 0.0001, 0.002
"""Variance per unit of light, and standard deviation without light: what making a picture smaller has left of them.
More of it no generator here could draw: grain needs noise at full resolution, and they are given none."""
SATURATION, BLACK, CONTRAST = 0.8, 0.05, 0.7
"""Of the maker's look: share of the colour that is left, where black lies, strength of the S of its tone curve."""
QUALITY = (65, 85)
LUMA = (0.2126, 0.7152, 0.0722)
"""Rec. 709."""
_DRAW, _NOISE = 0, 1
"""Last words of the keys."""


def photograph(light: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Pictures uint8 (N, H, W, 3) RGB.

    Args:
        light: float32 (N, 3, H, W), linear, 1 being white; sides multiples of 16.
        keys: int64 (N, 2), who is shown (kernels.noise.identity_key) and the picture's number.
    """
    draws = uniform(_with(keys, _DRAW), 8).float().to(light.device)
    exposed = light * _falloff(light) * _gains(draws[:, :4])
    blurred = _blur(exposed, BLUR[0] + (BLUR[1] - BLUR[0]) * draws[:, 4])
    noise = normal(_with(keys, _NOISE), tuple(light.shape[1:])).to(light.device)
    noisy = blurred + noise * (SHOT_NOISE * blurred.clamp_min(0) + READ_NOISE**2).sqrt()
    pixels = (_look(noisy.clamp(0, 1)) * 255 + 0.5).to(torch.uint8)
    quality = (QUALITY[0] + (QUALITY[1] - QUALITY[0]) * draws[:, 5]).round()
    return jpeg(pixels, quality).permute(0, 2, 3, 1)


def _with(keys: torch.Tensor, word: int) -> torch.Tensor:
    return torch.cat([keys, torch.zeros_like(keys[:, :1]), torch.full_like(keys[:, :1], word)], 1)


def _falloff(light: torch.Tensor) -> torch.Tensor:
    """1 in the middle, 1 - FALLOFF in the corners."""
    y, x = ((torch.arange(n, device=light.device) + 0.5) / n * 2 - 1 for n in light.shape[2:])
    return 1 - FALLOFF * (y[:, None] ** 2 + x**2) / 2


def _gains(draws: torch.Tensor) -> torch.Tensor:
    """(N, 3, 1, 1) of four draws each: balance, and exposure over all."""
    jitter = 1 + SPREAD * (2 * draws - 1)
    return (draws.new_tensor(BALANCE) * jitter[:, :3] * jitter[:, 3:])[..., None, None]


def _blur(images: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """A Gaussian of `sigmas` (N,) pixels each, the border repeated."""
    num, channels = images.shape[:2]
    place = torch.arange(-2, 3, device=images.device)
    kernel = torch.exp(-(place**2) / (2 * sigmas[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    rows = pad(images, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[None]
    for shape in ((1, 1, 1, 5), (1, 1, 5, 1)):
        rows = conv2d(rows, kernel.reshape(num * channels, *shape[1:]), groups=num * channels)
    return rows.reshape(images.shape)


def _look(light: torch.Tensor) -> torch.Tensor:
    """Linear light 0 to 1 as displayed 0 to 1."""
    shown = light.sqrt()
    curved = shown * shown * (3 - 2 * shown)
    shown = shown + CONTRAST * (curved - shown)
    grey = (shown * shown.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    coloured = grey + SATURATION * (shown - grey)
    return BLACK + (1 - BLACK) * coloured
