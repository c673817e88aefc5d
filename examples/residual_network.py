"""A residual network: its stages, blocks and activations, and their means over the image.

The small network here is written like torchvision's `resnet18` (timm's has the same names); with
theirs the call to `us.decode` is the same.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import underscript as us


class BasicBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 16))
        self.layer2 = nn.Sequential(BasicBlock(16, 32, 2), BasicBlock(32, 32))
        self.layer3 = nn.Sequential(BasicBlock(32, 64, 2), BasicBlock(64, 64))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layer3(self.layer2(x))), 1))


images, true = load_digits(return_X_y=True)
x = torch.tensor(images / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8)
y = torch.tensor(us.corrupt_labels(true, 0.4, seed=0))  # 36 % wrong
train, test = (x[:800], y[:800]), (x[800:], true[800:])

torch.manual_seed(0)
model = ResNet()
optimiser = torch.optim.Adam(model.parameters(), 2e-3)
for _ in range(12):
    for batch in torch.randperm(len(train[0])).split(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(train[0][batch]), train[1][batch]).backward()
        optimiser.step()

# Feature maps are read as grids of 4 × 4 means, layer1@4x4: whole ones have hundreds of thousands
# of values at 224 × 224 pixels. pool="flatten" reads them whole, pool="mean" as one mean a channel.
table = us.list_layers(model, train)
print(table[table["default"]].to_string(index=False))
decoding = us.decode(model, train, test=test)
print(decoding.verdict)
