"""PyTorch from Python, as fast as its users can make it: eager, traced, channels-last, frozen for inference.

Speaks the protocol of protocol.hpp on stdin and stdout.  Usage: torch_steps.py THREADS; the driver sets the environment.
"""
import math
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

MASK = 0xFFFFFFFF


def numbers(seed, n):
    """The same floats as bench::number in protocol.hpp."""
    h = (torch.arange(n, dtype=torch.int64) * 2654435761 + seed * 40503 + 12345) & MASK
    h = ((h ^ (h >> 16)) * 0x45D9F3B) & MASK
    h = ((h ^ (h >> 16)) * 0x45D9F3B) & MASK
    h = h ^ (h >> 16)
    return (h >> 8).to(torch.float32) * 2.0**-23 - 1.0


def inputs(*shape):
    return numbers(1000, math.prod(shape)).reshape(shape)


def indices(seed, n, below):
    return ((numbers(seed, n).double() + 1.0) * 0.5 * below).to(torch.int64)


def fill(net):
    """Weights by their fan-in; what has one axis takes that of the weight before it."""
    fan_in = 1
    with torch.no_grad():
        for index, p in enumerate(net.parameters()):
            fan_in = p[0].numel() if p.dim() > 1 else fan_in
            bound = torch.tensor(1.0 / math.sqrt(fan_in), dtype=torch.float64).to(torch.float32)
            p.copy_((numbers(index, p.numel()) * bound).reshape(p.shape))
    return net


def mlp(*sizes):
    layers = []
    for i, (a, b) in enumerate(zip(sizes, sizes[1:])):
        layers += [nn.Linear(a, b)] + ([nn.ReLU(inplace=True)] if i + 2 < len(sizes) else [])
    return nn.Sequential(*layers)


def lenet(padding):
    side = ((28 + 2 * padding - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=padding), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * side * side, 120), nn.ReLU(inplace=True), nn.Linear(120, 84),
        nn.ReLU(inplace=True), nn.Linear(84, 10))


class ResidualBlock(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
                                  nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after))
        self.shortcut = nn.Sequential() if stride == 1 else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        return torch.relu_(self.body(x) + self.shortcut(x))


def resnet18():
    blocks = ((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1))
    return nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), *(ResidualBlock(*b) for b in blocks),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Attention(nn.Module):
    """One product for q, k and v, and an additive mask: what nanoGPT does, and faster than nn.MultiheadAttention."""

    def __init__(self, width, heads, length):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("mask", torch.full((length, length), -math.inf).triu(1))

    def forward(self, x):
        n, length, width = x.shape
        q, k, v = (t.view(n, length, self.heads, width // self.heads).transpose(1, 2) for t in self.qkv(x).split(width, dim=2))
        p = torch.softmax((q * (width // self.heads) ** -0.5) @ k.transpose(2, 3) + self.mask, dim=-1)
        return self.out((p @ v).transpose(1, 2).reshape(n, length, width))


class Residual(nn.Module):
    def __init__(self, *body):
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x):
        return x + self.body(x)


class GPT(nn.Module):
    def __init__(self, blocks, width, length, letters):
        super().__init__()
        self.words, self.positions = nn.Embedding(letters, width), nn.Parameter(torch.empty(length, width))
        self.blocks = nn.Sequential(*(layer for _ in range(blocks) for layer in (
            Residual(nn.LayerNorm(width), Attention(width, 4, length)),
            Residual(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)))))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def parameters(self, recurse=True):  # in the order of use: Module lists its own first
        yield self.words.weight
        yield self.positions
        for part in (self.blocks, self.norm, self.head):
            yield from part.parameters()

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.words(x) + self.positions))).flatten(0, 1)


NETWORKS = {
    "tiny": (lambda: mlp(64, 32, 10), (64,)),
    "mlp": (lambda: mlp(784, 512, 512, 10), (784,)),
    "lenet": (lambda: lenet(0), (1, 28, 28)),
    "lenet_padded": (lambda: lenet(2), (1, 28, 28)),
    "resnet18": (resnet18, (3, 32, 32)),
    "gpt": (lambda: GPT(4, 128, 64, 65), (64,)),
}
TRAINING = {
    "tiny_16_sgd": ("tiny", 16, "sgd"), "tiny_16_adam": ("tiny", 16, "adam"),
    "mlp_64_sgd": ("mlp", 64, "sgd"), "mlp_64_adam": ("mlp", 64, "adam"),
    "mlp_1024_sgd": ("mlp", 1024, "sgd"), "mlp_1024_adam": ("mlp", 1024, "adam"),
    "lenet_64_sgd": ("lenet", 64, "sgd"), "lenet_64_adam": ("lenet", 64, "adam"),
    "lenet_padded_64_sgd": ("lenet_padded", 64, "sgd"),
    "resnet18_32_sgd": ("resnet18", 32, "sgd"), "gpt_12_adamw": ("gpt", 12, "adamw"),
}
INFERENCE = {"mlp_1": "mlp", "tiny_1": "tiny", "lenet_1": "lenet"}


class WithLoss(nn.Module):
    """Network and loss as one traced graph."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, y):
        return F.cross_entropy(self.net(x), y)


class Training:
    def __init__(self, case, variant):
        network, batch, optimizer = TRAINING[case]
        make, shape = NETWORKS[network]
        net = fill(make())
        if network == "gpt":
            n = batch * math.prod(shape)
            self.x, self.y = indices(1000, n, 65).reshape(batch, *shape), indices(1001, n, 65)
        else:
            self.x, self.y = inputs(batch, *shape), indices(1001, batch, 10)
        if "channels_last" in variant:
            net = net.to(memory_format=torch.channels_last)
            self.x = self.x.to(memory_format=torch.channels_last)
        parameters = list(net.parameters())
        foreach = "foreach" in variant
        make_optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
        self.optimizer = make_optimizer(parameters, lr=0.01 if optimizer == "sgd" else 1e-3, foreach=foreach)
        self.loss_of = WithLoss(net)
        if "traced" in variant:
            self.loss_of = torch.jit.trace(self.loss_of, (self.x, self.y))
        self.loss = None

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = self.loss_of(self.x, self.y)
        self.loss.backward()
        self.optimizer.step()

    def values(self):
        return [self.loss.item()]


class Inference:
    def __init__(self, case, variant):
        make, shape = NETWORKS[INFERENCE[case]]
        net = fill(make()).eval()
        self.x = inputs(1, *shape)
        if "channels_last" in variant:
            net, self.x = net.to(memory_format=torch.channels_last), self.x.to(memory_format=torch.channels_last)
        with torch.no_grad():
            if "frozen" in variant:
                net = torch.jit.freeze(torch.jit.trace(net, self.x))
            elif "optimized" in variant:
                net = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(net, self.x)))
        self.net = net

    def step(self):
        self.y = self.net(self.x)

    def values(self):
        return self.y.flatten().tolist()


def entries():
    for case in TRAINING:
        for variant in ("eager", "eager_foreach", "traced", "traced_foreach"):
            yield case, variant
        if "lenet" in case or "resnet" in case:
            yield case, "eager_foreach_channels_last"
            yield case, "traced_channels_last"
    for case in INFERENCE:
        for variant in ("eager", "frozen", "optimized") + (("frozen_channels_last",) if "lenet" in case else ()):
            yield case, variant


def make(case, variant):
    return Training(case, variant) if case in TRAINING else Inference(case, variant)


def repeat(work, steps):
    if isinstance(work, Inference):
        with torch.inference_mode():
            for _ in range(steps):
                work.step()
    else:
        for _ in range(steps):
            work.step()


def main():
    torch.set_num_threads(int(sys.argv[1]))
    known, kept = set(entries()), {}
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "list":
            for case, variant in entries():
                print(case, variant)
            print(".", flush=True)
        elif command == "machine":
            print("torch", torch.__version__)
            print(".", flush=True)
        elif (rest[0], rest[1]) not in known:
            print("unknown", flush=True)
        elif command == "check":
            work, values = make(rest[0], rest[1]), []
            for _ in range(int(rest[2])):
                repeat(work, 1)
                values += work.values()
            print(*(f"{v:.9g}" for v in values), flush=True)
        else:
            work = kept.setdefault((rest[0], rest[1]), None) or make(rest[0], rest[1])
            kept[rest[0], rest[1]] = work
            steps = int(rest[2])
            repeat(work, steps // 10 + 1)
            start = time.perf_counter_ns()
            repeat(work, steps)
            print((time.perf_counter_ns() - start) / steps, flush=True)


main()
