"""Which of the generator's features DECENT and UNSB look at in training."""

LAYERS = (0, 4, 8, 12, 16)
"""Its padded input, the convolutions of both halvings, residual blocks 1 and 5; a block is a layer."""


def feature_layers(num_blocks: int) -> tuple[int, ...]:
    """The published layers; with fewer than five residual blocks, the last block stands for the fifth."""
    last_block = LAYERS[3] + num_blocks - 1
    return tuple(sorted({min(layer, last_block) for layer in LAYERS}))
