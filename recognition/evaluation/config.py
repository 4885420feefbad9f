"""What `evaluate` takes, as a frozen, typed value."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from tyro.conf import FlagCreatePairsOff, Positional

from d2r_fast.engine.config import Frozen, Precision, ReaderName
from d2r_fast.recognition.evaluation.fusion import parse_fusion


class EvaluateConfig(Frozen):
    """A network, the benchmarks it is to be measured on, and how."""

    network: Positional[Path]
    """Run folder of train (of several seeds: each is evaluated), ONNX recogniser, or checkpoint of InsightFace or
    AdaFace. Beside NAME.onnx, NAME.json says how its pixels are normalised, as {"channels": "rgb", "mean": [0.5, 0.5,
    0.5], "std": [0.5, 0.5, 0.5]}, which is taken where there is none."""
    benchmarks: Path
    """Folder of benchmarks: NAME.bin files, IJBB/ and IJBC/ (loose_crop, meta), RFW/ (data, txts) or
    <Race>_test.bin files."""
    out: Path
    """Folder for results, tables, curves and page. A run that was stopped goes on where it was."""
    suite: str = ""
    """Which ones, separated by commas: lfw, calfw, cplfw, agedb_30, cfp_fp, cfp_ff, vgg2_fp, ijbb, ijbc, rfw, or the
    name of any other .bin there. Default: all that are there."""
    ijb_fusion: str = "insightface"
    """IJB templates: insightface (F1N1D1), adaface (F1N1D0) or any triple of flip sum, norm kept, detector
    score. The three others of the same flip are reported beside it."""
    no_flip: FlagCreatePairsOff[bool] = False
    """Pairs by the images alone, without their mirror images."""
    max_unreadable: Annotated[int, Field(ge=0)] = 0
    """Unreadable images of a benchmark to do without: their pairs are left out and counted, which makes the figure
    another than the published protocol's. Default: none."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 128
    """Crops embedded at once."""
    precision: Precision = "fp32"
    """Arithmetic of the network."""
    reader: ReaderName = "auto"
    """Who decodes and aligns: plain (Pillow) or dali (NVIDIA DALI; on CUDA JPEG is decoded and aligned there, with
    other rounding). auto is plain everywhere: results must not depend on what is installed. On a CPU the networks set
    the pace."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    @field_validator("ijb_fusion")
    @classmethod
    def _known_fusion(cls, value: str) -> str:
        parse_fusion(value)
        return value

    @field_validator("suite")
    @classmethod
    def _distinct_suites(cls, value: str) -> str:
        names = split_suites(value)
        if len(set(names)) < len(names) or (value and "" in names):
            raise ValueError("give each name once, separated by commas")
        return value


def split_suites(text: str) -> tuple[str, ...]:
    """The names of a comma-separated list; none of an empty one."""
    return tuple(name.strip() for name in text.split(",")) if text else ()
