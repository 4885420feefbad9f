"""The measures by name: what each is called, which way is better, and what it says."""

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "middle", "neither"]


@dataclass(frozen=True, slots=True)
class Measure:
    """A row of the report. `better` is for training; `middle` means that either extreme trains worse."""

    title: str
    better: Better
    meaning: str


CATALOGUE: dict[str, Measure] = {
    "num_identities": Measure("Identities", "neither", "classes that were measured"),
    "num_images": Measure("Images", "neither", "images that were measured"),
    "images_per_identity": Measure("Images per identity", "neither", "their mean"),
    # A mean of two: a recogniser that tells people apart badly finds copies of one picture consistent, and their k-NN
    # consistency then rises by more than the rank falls. consistent_variety, a product, ranks such a set low all the
    # same; where the recogniser is good at the images both do.
    "intrinsic_quality": Measure(
        "Intrinsic quality", "higher",
        "mean of k-NN label consistency and normalised effective rank (arXiv 2605.29720; equal weights are ours)",
    ),
    "consistent_variety": Measure(
        "Consistency x variety", "higher",
        "geometric mean of k-NN label consistency and normalised effective rank: poor where either is",
    ),
    "identity_consistency": Measure(
        "Identity consistency", "higher", "share of images near their class centre (DCFace's C_intra)"
    ),
    "consistency_with_others": Measure(
        "Consistency with others", "higher", "the same with the centre of the class's other images"
    ),
    "centre_similarity": Measure(
        "Similarity to centre", "middle", "mean cosine to the class centre; CemiFace trains best in between"
    ),
    "centre_similarity_std": Measure("Similarity to centre, spread", "neither", "its standard deviation"),
    "uniqueness": Measure(
        "Uniqueness", "higher", "share of identities that a greedy filter keeps apart (DCFace's U)"
    ),
    "duplicate_pairs": Measure("Near-duplicate pairs", "lower", "pairs of class centres above the threshold"),
    "duplicate_identities": Measure("Near-duplicate identities", "lower", "share of identities in such a pair"),
    "diversity_to_centre": Measure("Diversity to centre", "higher", "mean of 1 - cosine to the class centre"),
    "diversity_between_images": Measure(
        "Diversity between images", "higher", "mean of 1 - cosine between two images of a class"
    ),
    "genuine_mean": Measure("Genuine cosine", "middle", "mean over pairs of one identity"),
    "genuine_std": Measure("Genuine cosine, spread", "neither", "its standard deviation"),
    "impostor_mean": Measure("Impostor cosine", "lower", "mean over pairs of two identities"),
    "impostor_std": Measure("Impostor cosine, spread", "lower", "its standard deviation"),
    "fdr": Measure("Fisher discriminant ratio", "higher", "(mu_g - mu_i)^2 / (s_g^2 + s_i^2)"),
    "d_prime": Measure("d'", "higher", "(mu_g - mu_i) / sqrt((s_g^2 + s_i^2) / 2)"),
    "eer": Measure("EER", "lower", "equal error rate of genuine against impostor pairs"),
    "fmr100": Measure("FMR100", "lower", "lowest FNMR at FMR <= 1 %"),
    "fmr1000": Measure("FMR1000", "lower", "lowest FNMR at FMR <= 0.1 %"),
    "neighbour_consistency": Measure(
        "k-NN label consistency", "higher", "share of the nearest images that bear the same label"
    ),
    "effective_rank": Measure(
        "Effective rank", "higher", "directions that the embeddings spread over; grows with the number of images"
    ),
    "normalised_effective_rank": Measure(
        "Effective rank, normalised", "higher", "the same over the most that there could be, min(images, width)"
    ),
    "effective_rank_within": Measure(
        "Effective rank within classes", "higher", "the same after each class's mean is taken off"
    ),
    "effective_rank_centres": Measure("Effective rank of centres", "higher", "the same of the class centres"),
    "vendi": Measure("Vendi score", "higher", "as many images that all differ would be as diverse"),
    "norm_mean": Measure("Embedding norm", "higher", "mean; of AdaFace networks it grows with image quality"),
    "norm_std": Measure("Embedding norm, spread", "neither", "its standard deviation"),
    "fid": Measure("FID", "lower", "Frechet Inception distance to the real photographs"),
    "kid": Measure("KID", "lower", "kernel Inception distance to the real photographs"),
    "kid_std": Measure("KID, spread", "neither", "its standard deviation over subsets"),
}  # fmt: skip
