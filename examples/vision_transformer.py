"""A vision transformer: the class token and the mean of the tokens, block by block.

The small network here is written like torchvision's `vit_b_16` and timm's `vit_base_patch16_224`;
with theirs the call to `us.decode` is the same.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import underscript as us


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.Dropout(0.0)
        )

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self, width: int = 64, blocks: int = 2):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)  # 16 patches of 2 × 2 pixels
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


images, true = load_digits(return_X_y=True)
x = torch.tensor(images / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8)
y = torch.tensor(us.corrupt_labels(true, 0.4, seed=0))  # 36 % wrong
train, test = (x[:800], y[:800]), (x[800:], true[800:])

torch.manual_seed(0)
model = VisionTransformer()
optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
for _ in range(30):
    for batch in torch.randperm(len(train[0])).split(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(train[0][batch]), train[1][batch]).backward()
        optimiser.step()

# Tokens have a first one, the class token, and a mean; each is a layer of its own. In place of all
# defaults: layers="blocks.*@first,norm@mean".
decoding = us.decode(model, train, test=test, pool=("first", "mean"))
print(decoding.verdict)
print(decoding.best.layers)
