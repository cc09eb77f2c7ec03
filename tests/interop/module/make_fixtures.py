"""Writes what PyTorch computes for each kind of module, one text file a case, for tests/unit/module/pytorch.cpp.

usage: make_fixtures.py OUTPUT_DIRECTORY [--seed N]

A file is a comment line and then tensors, each a line `name axes...` and a line of its values in hexadecimal floating point:
param.*, buffer.*, counter.* (the state_dict, in its order), x, dy (what goes in, exact in single precision), y, dx, grad.* (computed in double
precision, in training mode), after.* (buffers after that step), eval_y (evaluation mode afterwards). The committed files were written
with the default seed by torch 1.13; the interop suite writes others with other seeds and compares live.
"""
import argparse
import pathlib

import torch
from torch import nn


class Residual(nn.Module):
    """A block with torchvision's names, so that residual<...> has something to agree with."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.downsample = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2, bias=False), nn.BatchNorm2d(4))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return y + self.downsample(x)


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.narrow = nn.Conv2d(2, 3, 1)
        self.wide = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.SiLU())

    def forward(self, x):
        return torch.cat([self.narrow(x), self.wide(x), x], dim=1)


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(16, 7), nn.ReLU(), nn.Linear(7, 5))

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class Frozen(nn.Module):
    """A frozen part between parts that learn: evaluation mode, no gradients of its own, gradients through it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.middle = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 6), nn.GELU())
        self.last = nn.Linear(6, 2)
        for p in self.middle.parameters():
            p.requires_grad = False

    def train(self, mode=True):
        super().train(mode)
        self.middle.eval()
        return self

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


class SelfAttention(nn.MultiheadAttention):
    """(x, x, x), and causal where asked for."""

    def __init__(self, *arguments, causal=False, **named):
        super().__init__(*arguments, batch_first=True, **named)
        self.causal = causal

    def forward(self, x):
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype).triu(1) if self.causal else None
        return super().forward(x, x, x, need_weights=False, attn_mask=mask)[0]


# name: (module, input shape with batch)
CASES = {
    "linear": (lambda: nn.Linear(7, 5), (4, 7)),
    "linear_no_bias": (lambda: nn.Linear(6, 3, bias=False), (2, 4, 6)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3), (3, 2, 6, 7)),
    "conv2d_all": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, bias=False), (2, 4, 8, 9)),
    "conv2d_rect": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), (2, 2, 6, 7)),
    "max_pool2d": (lambda: nn.MaxPool2d(2), (2, 2, 6, 5)),
    "max_pool2d_all": (lambda: nn.MaxPool2d(3, stride=2, padding=1), (2, 2, 7, 6)),
    "avg_pool2d": (lambda: nn.AvgPool2d(2), (2, 2, 6, 5)),
    "avg_pool2d_all": (lambda: nn.AvgPool2d(3, stride=2, padding=1), (2, 2, 7, 6)),
    "adaptive_avg_pool2d": (lambda: nn.AdaptiveAvgPool2d((3, 2)), (2, 2, 7, 5)),
    "relu": (lambda: nn.ReLU(), (2, 19)),
    "leaky_relu": (lambda: nn.LeakyReLU(), (2, 19)),
    "gelu": (lambda: nn.GELU(), (2, 37)),
    "gelu_tanh": (lambda: nn.GELU(approximate="tanh"), (2, 37)),
    "silu": (lambda: nn.SiLU(), (2, 37)),
    "tanh": (lambda: nn.Tanh(), (2, 37)),
    "sigmoid": (lambda: nn.Sigmoid(), (2, 37)),
    "softmax": (lambda: nn.Softmax(dim=-1), (3, 2, 19)),
    "softmax_dim1": (lambda: nn.Softmax(dim=1), (2, 5, 7)),
    "log_softmax": (lambda: nn.LogSoftmax(dim=1), (4, 10)),
    "log_softmax_dim1": (lambda: nn.LogSoftmax(dim=1), (2, 5, 7)),
    "batch_norm1d": (lambda: nn.BatchNorm1d(7), (6, 7)),
    "batch_norm1d_sequence": (lambda: nn.BatchNorm1d(3), (4, 3, 9)),
    "batch_norm2d": (lambda: nn.BatchNorm2d(3), (4, 3, 5, 6)),
    "layer_norm": (lambda: nn.LayerNorm(19), (2, 3, 19)),
    "layer_norm_over": (lambda: nn.LayerNorm([3, 5]), (2, 4, 3, 5)),
    "embedding": (lambda: nn.Embedding(6, 4), (3, 5)),
    "lenet": (lambda: LeNet(), (3, 1, 12, 12)),
    "residual": (lambda: Residual(), (3, 3, 6, 6)),
    "concat": (lambda: Concat(), (2, 2, 4, 5)),
    "frozen": (lambda: Frozen(), (4, 5)),
    "multihead_attention": (lambda: SelfAttention(12, 3), (2, 7, 12)),
    "multihead_attention_causal": (lambda: SelfAttention(8, 2, bias=False, causal=True), (3, 19, 8)),
}


def single(t):
    """Values that single precision holds exactly."""
    return t.float().double()


def hexadecimal(v):
    """As float.hex, without the zeros at the end."""
    mantissa, _, exponent = float(v).hex().partition("p")
    return (mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa) + ("p" + exponent if exponent else "")


def write(path, title, tensors):
    with open(path, "w") as out:
        out.write(f"# {title}\n")
        for name, t in tensors:
            out.write(" ".join([name, *map(str, t.shape)]) + "\n")
            out.write(" ".join(hexadecimal(v) for v in t.reshape(-1).tolist()) + "\n")


def run(name, make, shape, generator):
    module = make().double()
    module.train()
    state = []
    for key, value in module.state_dict(keep_vars=True).items():
        with torch.no_grad():
            if isinstance(value, nn.Parameter):
                value.copy_(single(value + 0.2 * torch.randn(value.shape, generator=generator)))
                state.append(("param." + key, value.detach().clone()))
            elif value.is_floating_point():
                # A variance stays positive.
                value.copy_(single(value * (1 + 0.2 * torch.rand(value.shape, generator=generator)) + 0.1 * torch.rand(value.shape, generator=generator)))
                state.append(("buffer." + key, value.clone()))
            else:
                state.append(("counter." + key, value.clone()))
    if isinstance(module, nn.Embedding):
        x = torch.randint(0, module.num_embeddings, shape, generator=generator)
    else:
        x = single(2 * torch.randn(shape, generator=generator, dtype=torch.float64))
        if not state:  # functions of one number: also far out
            flat = x.view(-1)
            flat[: flat.numel() // 3] = single(torch.linspace(-12, 12, flat.numel() // 3, dtype=torch.float64))
        x.requires_grad_()
    y = module(x)
    dy = single(torch.randn(y.shape, generator=generator, dtype=torch.float64))
    y.backward(dy)
    tensors = state + [("x", x.detach()), ("dy", dy), ("y", y.detach())]
    if x.is_floating_point():
        tensors.append(("dx", x.grad))
    tensors += [("grad." + key, p.grad) for key, p in module.named_parameters() if p.grad is not None]
    tensors += [("after." + key, b.clone()) for key, b in module.named_buffers()]
    module.eval()
    with torch.no_grad():
        tensors.append(("eval_y", module(x)))
    title = f"{type(module).__name__} in torch {torch.__version__}: {' '.join(repr(module).split())}"
    return title, tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for number, (name, (make, shape)) in enumerate(CASES.items()):
        torch.manual_seed(arguments.seed * 1000 + number)
        generator = torch.Generator().manual_seed(arguments.seed * 1000 + number)
        title, tensors = run(name, make, shape, generator)
        write(arguments.directory / f"{name}.txt", title, tensors)


if __name__ == "__main__":
    main()
