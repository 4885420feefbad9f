"""What Syn2Auth (Rahimi et al.) printed about the methods: Table 1, and the columns of Figure 3.

Its seconds are of an NVIDIA RTX 3090 Ti, one image after the other as far as the text tells; resolution, w, steps and
the number of evaluations of UNSB are not given. StyleGAN inversion is named among the methods that were tried, and is
neither in the table nor in the figure.
"""

from dataclasses import dataclass

from d2r_fast.translation.config import MethodName

SOURCE = "Syn2Auth, Table 1 (RTX 3090 Ti)"
DIGIFACE_IMAGES = 1_220_000
"""Of DigiFace-1M: what the paper translated with the methods that it kept."""
FIGURE_3 = ("DigiFace1M", "CodeFormer", "VSAIT", "DECENT", "UNSB-NE-1", "UNSB-NE-5", "DDIM Inversion")


@dataclass(frozen=True, slots=True)
class Published:
    """One column of Table 1."""

    seconds_per_image: float
    quality: str
    """Its authors' word for what they saw."""


TABLE_1: dict[MethodName, Published] = {
    "codeformer": Published(0.41, "Good"),
    "vsait": Published(0.015, "Average"),
    "decent": Published(0.13, "Average"),
    "unsb": Published(0.38, "Average"),
    "ddim-inversion": Published(8.7, "Good"),
}
TITLES: dict[MethodName, str] = {
    "codeformer": "CodeFormer",
    "vsait": "VSAIT",
    "decent": "DECENT",
    "unsb": "UNSB",
    "ddim-inversion": "DDIM inversion",
    "stylegan-inversion": "StyleGAN inversion",
}


def figure_column(method: MethodName, *, nfe: int | None) -> str | None:
    """The column of Figure 3 that a method is; None where it has none."""
    if method == "unsb":
        return f"UNSB-NE-{nfe}" if nfe in (1, 5) else None
    by_title = {name.lower(): name for name in FIGURE_3}
    return by_title.get(TITLES[method].lower())
