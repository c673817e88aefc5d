"""What a model gives at its layers, as `decode` reads them."""

import torch
from torch import Tensor, nn

from underscript.activations.hooks import undisturbed
from underscript.activations.layers import resolve
from underscript.activations.stream import stream
from underscript.activations.trace import survey
from underscript.data.source import Source


def captured(
    model: nn.Module, x: Tensor, layers: object = None, pool: object = None
) -> dict[str, Tensor]:
    """Run the model once over `x`, as `decode` does, and return every chosen layer's rows."""
    source = Source(x, "inputs", batch_size=7)
    places = resolve(survey(model, source.first(3), pool=pool), model, layers)
    taps = [place.tap for place in places]
    with undisturbed(model):
        parts = [r.layers for r in stream(model, source, taps, torch.device("cpu"), stage="test")]
    return {tap.name: torch.cat([part[tap.name] for part in parts]) for tap in taps}
