"""What was asked for, by device and size of the networks: the least value of each finding."""

CPU_FULL, CPU_MINI, CUDA_FULL = ("cpu", "full"), ("cpu", "mini"), ("cuda", "full")
Kind = tuple[str, str]
TRANSLATORS = ("vsait", "decent", "unsb", "codeformer", "stylegan-inversion", "ddim-inversion")

TARGETS: dict[str, dict[Kind, float]] = {
    "unet over torch fp32 eager": {CPU_FULL: 2.8},
    "unet TFLOP/s": {CUDA_FULL: 450.0},
    "arcface crops/s": {CUDA_FULL: 15000.0},
    "detector over one by one": {CPU_FULL: 3.0, CPU_MINI: 3.0},
    "detector for generated faces over one by one": {CPU_FULL: 10.0, CPU_MINI: 10.0},
    "LCM-4 over 25 steps with guidance": {CPU_FULL: 6.0, CUDA_FULL: 12.0},
    "guidance on 10 of 25 steps over all": {CPU_FULL: 1.33, CUDA_FULL: 1.33},
    "slots over static batches": {CPU_FULL: 1.6, CPU_MINI: 1.6, CUDA_FULL: 1.6},
    "share of images equal to their solo run": {CPU_FULL: 1.0, CPU_MINI: 1.0, CUDA_FULL: 1.0},
    "slot occupancy": {CPU_FULL: 0.97, CPU_MINI: 0.97, CUDA_FULL: 0.97},
    "pipeline over UNet and VAE alone": {CPU_FULL: 0.95, CUDA_FULL: 0.95},
    "pipeline over B0": {CPU_MINI: 3.0, CUDA_FULL: 6.0},
    "pipeline over B1": {CUDA_FULL: 1.4},
    "pipeline images/s": {CUDA_FULL: 10.0},
    "ten-fold sweep over calculate_roc's work": {CPU_FULL: 20.0, CPU_MINI: 20.0, CUDA_FULL: 20.0},
    "60 s over IJB-C's templates, pairs and curve": {CPU_FULL: 1.0, CUDA_FULL: 1.0},
    "6 GB over the peak memory of it": {CPU_FULL: 1.0, CUDA_FULL: 1.0},
    "112 px PNG: plain reader over the recogniser": {CPU_FULL: 1.0, CUDA_FULL: 1.0},
    "512 px JPEG, aligned: plain reader over the recogniser": {CPU_FULL: 1.0, CUDA_FULL: 1.0},
    "2 workers over 1": {CPU_FULL: 1.85},
    "0.05 s over a shard's overhead": {CPU_FULL: 1.0},
    **{f"{method} over its public-style loop": {CPU_FULL: 2.0} for method in TRANSLATORS},
    **{f"{method} over networks alone": {CPU_FULL: 0.95, CUDA_FULL: 0.95} for method in TRANSLATORS},
    "unsb without dead work over with it": {CPU_FULL: 1.3, CUDA_FULL: 1.3},
    "agreement with B0, dB": {CPU_FULL: 50.0, CPU_MINI: 50.0, CUDA_FULL: 30.0},
}


def target(name: str, kind: Kind) -> float | None:
    """The least value that was asked for here, if any was."""
    return TARGETS.get(name, {}).get(kind)
