"""Values that options take. Nothing here imports torch, so `--help` is fast."""

# How tokens and feature maps are pooled: `flatten` keeps all values side by side; the others
# return one token's width.
POOLS = ("flatten", "first", "mean", "last")
# The same choices for error messages.
POOL_CHOICES = f"{', '.join(POOLS)} or a grid such as 2x2"

# The paper's decoders, as tables and run folders name them.
PROBE_NAMES = ("masc", "velpic")

# Choices for a model's rewritten last layer.
BIASES = ("zero", "kept", "refitted")
WEIGHTS = ("logistic", "velpic", "own")
