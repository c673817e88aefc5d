"""Images through which others show a little."""

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from ...data.batches import Batch
from ...data.samples import named_inputs, with_inputs
from ...utils.hashing import below, stream_of
from .numbers import check_shape

__all__ = ["Overlays"]

# How much of each pixel is another image's.
_SHARE = 0.3
# At most so many other images are kept.
_KEPT = 256


class Overlays:
    """Lets another image show through each, as mixup does, but with a small share.

    Networks are trained with shifts and flips, and then remember shifted images too; few are
    trained with this.

    Parameters
    ----------
    images : dict of str to Tensor
        The inputs that are images, by name: some of each, which show through.
    """

    name, fits = "overlays", True

    def __init__(self, images: Mapping[str, Tensor]):
        self.images = {name: value[:_KEPT].detach().cpu() for name, value in images.items()}

    def __call__(self, batch: Batch, numbers: Int[Tensor, "n"], strength: float) -> Batch:
        """Return the batch with other images shining through its own."""
        changed = {}
        for name, value in named_inputs(batch).items():
            if name not in self.images:
                continue
            others = self.images[name]
            check_shape(name, value, others[0])
            which = below(stream_of(numbers.cpu(), 2), len(others))
            exact = torch.promote_types(value.dtype, torch.float32)
            other = others[which].to(value.device, exact)
            mixed = torch.lerp(value.to(exact), other, min(1.0, _SHARE * strength))
            whole = not value.is_floating_point()
            changed[name] = (mixed.round() if whole else mixed).to(value.dtype)
        return with_inputs(batch, changed)
