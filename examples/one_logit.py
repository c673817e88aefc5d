"""A binary classifier with one logit, as trained with BCEWithLogitsLoss: wrapped to give two."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import underscript as us


class TwoLogits(nn.Module):
    """0 and the logit: their softmax is the sigmoid of the logit."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logit = self.model(x).reshape(-1, 1)
        return torch.cat([torch.zeros_like(logit), logit], 1)


images, digits = load_digits(return_X_y=True)
x, true = torch.tensor(images / 8 - 1, dtype=torch.float32), (digits >= 5).astype(int)
y = torch.tensor(us.corrupt_labels(true, 0.4, seed=0))  # 20 % wrong

torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 1)
)
optimiser = torch.optim.Adam(model.parameters(), 3e-3)
for _ in range(150):
    optimiser.zero_grad()
    loss = nn.functional.binary_cross_entropy_with_logits(model(x[:1200])[:, 0], y[:1200].float())
    loss.backward()
    optimiser.step()

decoding = us.decode(TwoLogits(model), (x[:1200], y[:1200]), test=(x[1200:], true[1200:]))
print(decoding.verdict)
