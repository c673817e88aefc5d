"""Names that options take. Nothing here imports torch, so that `--help` need not wait for it."""

# How tokens and feature maps are read: `flatten` keeps all values side by side; the others are of
# one token's width.
POOLS = ("flatten", "first", "mean", "last")
# What to say where others are expected.
POOL_CHOICES = f"{', '.join(POOLS)} or a grid such as 2x2"

# The paper's decoders, as tables and run folders name them.
PROBE_NAMES = ("masc", "velpic")

# Of a model's rewritten last layer.
BIASES = ("zero", "kept", "refitted")
WEIGHTS = ("logistic", "velpic", "own")
