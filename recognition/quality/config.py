"""What `quality` measures and with what, as a frozen, typed value."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator
from tyro.conf import FlagCreatePairsOff, Positional

from d2r_fast.engine.config import Frozen

Cosine = Annotated[float, Field(ge=-1, le=1)]
Count = Annotated[int, Field(ge=1)]


class QualityConfig(Frozen):
    """One measurement of a dataset, or a calibration of the measures against known accuracies."""

    dataset: Positional[Path | None] = None
    """Dataset to measure: a folder of ours, <identity>/<image>, or InsightFace RecordIO; aligned 112x112 crops."""
    recogniser: Path | None = None
    """Network that looks at the images: ONNX, a run of `train`, or a checkpoint. Not the one that steered the
    generator: what that one asked for it will also find."""
    out: Path | None = None
    """Folder for quality.json and quality.md. Default: <dataset>-quality beside the dataset; with --calibrate
    nothing is written unless this is given."""
    real: Path | None = None
    """Real photographs, aligned as the dataset is: FID and KID are measured against them, by torch-fidelity."""
    inception: Path | None = None
    """Inception weights of torch-fidelity (weights-inception-2015-12-05-6726825d.pth). Default: where
    torch-fidelity keeps them. Nothing is downloaded."""
    identities: Annotated[int, Field(ge=2)] | None = None
    """Measure this many identities, chosen by the seed. Default: all."""
    images_per_identity: Annotated[int, Field(ge=2)] | None = None
    """Measure at most this many images of each identity, chosen by the seed. Default: all."""
    radius: Cosine = 0.3
    """Cosine above which an image counts as its identity's, and below which two identities count as distinct
    (DCFace's r). Cosines of another network lie elsewhere: compare values of one network and one radius."""
    duplicate_threshold: Cosine = 0.7
    """Cosine of two identities' centres above which they count as near-duplicates."""
    neighbours: Annotated[int, Field(ge=1, le=100)] = 10
    """Nearest images of which the label is compared."""
    queries: Count = 4096
    """Images whose neighbours are looked up among all, chosen by the seed."""
    impostor_pairs: Annotated[int, Field(ge=1000)] = 50_000_000
    """Impostor pairs to take for EER, FMR100 and FMR1000 at most, in blocks chosen by the seed. Mean and standard
    deviation are always those of all pairs."""
    realism_images: Annotated[int, Field(ge=2)] = 10_000
    """Images of each side for FID and KID at most, chosen by the seed."""
    max_unreadable: Annotated[int, Field(ge=0)] = 100
    """Images that may be unusable: each is counted, named and left out; one more stops the run."""
    allow_same: FlagCreatePairsOff[bool] = False
    """Measure with the recogniser that steered the generator all the same; the report says so."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Chooses whatever is sampled."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 128
    """Crops embedded at once."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N, for the networks."""
    calibrate: tuple[str, ...] | None = None
    """Instead of a dataset: NAME=quality.json of each dataset, or a CSV with the column run and one column per
    predictor. Ranks the measures as predictors of the accuracies known of these runs; with no file, what the
    published table alone tells."""
    accuracies: Path | None = None
    """With --calibrate: CSV with the column run and one column per benchmark, in place of the published table."""
    bootstrap: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    """With --calibrate: resamples of the runs for the intervals."""

    @model_validator(mode="after")
    def _one_task(self) -> "QualityConfig":
        if self.calibrate is not None:
            if self.dataset is not None:
                raise ValueError("give a dataset or --calibrate, not both")
            return self
        if self.dataset is None:
            raise ValueError("give the dataset to measure, or --calibrate")
        if self.recogniser is None:
            raise ValueError("recogniser is missing: give --recogniser a network to look at the images with")
        if self.accuracies is not None:
            raise ValueError("accuracies goes with --calibrate: leave it out")
        if self.inception is not None and self.real is None:
            raise ValueError("inception goes with --real: give the photographs to compare with")
        return self
