#!/usr/bin/env python3
"""Losses and gradients by PyTorch in float64, for inputs that floats hold exactly. Usage: generate.py OUT [--seed N]

One file of lines "case NAME", "x N value...", "target N value...", "value 1 v", "dx N value...", numbers as hexadecimal floats.
The settings of each case are in tests/unit/loss/pytorch.cpp under the same name.
"""
import argparse
import sys

try:
    import torch
except ImportError:
    sys.exit(77)  # Meson: skipped

F = torch.nn.functional


def line(name, tensor):
    flat = tensor.detach().double().reshape(-1).tolist()
    return f"{name} {len(flat)} " + " ".join(float(v).hex() for v in flat) + "\n"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out")
    arguments.add_argument("--seed", type=int, default=1)
    a = arguments.parse_args()
    torch.manual_seed(a.seed)
    out = open(a.out, "w")

    def values(*shape, scale=2.0):
        return (torch.randn(*shape) * scale).float().double()

    def classes(n, *shape, ignore=None):
        t = torch.randint(0, n, shape)
        if ignore is not None:
            t[torch.rand(*shape) < 0.25] = ignore
            t.reshape(-1)[0] = 1  # at least one counts
        return t

    def case(name, loss, x, target):
        x = x.clone().requires_grad_(True)
        value = loss(x, target)
        value.backward()
        out.write(f"case {name}\n" + line("x", x) + line("target", target) + line("value", value) + line("dx", x.grad))

    weight10 = torch.tensor([0.5 + 0.125 * i for i in range(10)], dtype=torch.float64)
    weight100 = torch.tensor([0.25 + 0.0625 * (i % 9) for i in range(100)], dtype=torch.float64)
    ce = F.cross_entropy
    case("ce", ce, values(16, 10), classes(10, 16))
    case("ce_short_batch", ce, values(13, 10), classes(10, 13))
    case("ce_far_scores", ce, values(9, 10, scale=40.0), classes(10, 9))
    case("ce_two_classes", ce, values(21, 2), classes(2, 21))
    case("ce_sum", lambda x, t: ce(x, t, reduction="sum"), values(16, 10), classes(10, 16))
    case("ce_smoothing", lambda x, t: ce(x, t, label_smoothing=0.1), values(19, 10), classes(10, 19))
    case("ce_weight", lambda x, t: ce(x, t, weight=weight10), values(19, 10), classes(10, 19))
    case("ce_ignore", ce, values(19, 10), classes(10, 19, ignore=-100))
    case("ce_ignore_7", lambda x, t: ce(x, t, ignore_index=7), values(19, 10), classes(10, 19, ignore=7))
    case("ce_all", lambda x, t: ce(x, t, weight=weight10, label_smoothing=0.2), values(19, 10), classes(10, 19, ignore=-100))
    case("ce_many_classes", ce, values(5, 100), classes(100, 5))
    case("ce_many_classes_all", lambda x, t: ce(x, t, weight=weight100, label_smoothing=0.1), values(9, 100), classes(100, 9, ignore=-100))
    case("ce_image", ce, values(3, 10, 5, 5), classes(10, 3, 5, 5))
    case("ce_image_all", lambda x, t: ce(x, t, weight=weight10, label_smoothing=0.1), values(3, 10, 5, 5), classes(10, 3, 5, 5, ignore=-100))
    case("ce_text", ce, values(2, 100, 7), classes(100, 2, 7, ignore=-100))
    case("nll", lambda x, t: F.nll_loss(x, t), values(16, 10), classes(10, 16))
    case("nll_all", lambda x, t: F.nll_loss(x, t, weight=weight10), values(3, 10, 5, 5), classes(10, 3, 5, 5, ignore=-100))
    case("nll_sum", lambda x, t: F.nll_loss(x, t, reduction="sum"), values(16, 10), classes(10, 16))

    case("mse", F.mse_loss, values(7, 11), values(7, 11))
    case("mse_sum", lambda x, t: F.mse_loss(x, t, reduction="sum"), values(7, 11), values(7, 11))
    same = values(7, 11)
    other = same.clone()
    other[::2] += values(4, 11)
    case("l1", F.l1_loss, same, other)
    case("smooth_l1", F.smooth_l1_loss, values(7, 11), values(7, 11))
    case("smooth_l1_half", lambda x, t: F.smooth_l1_loss(x, t, beta=0.5), values(7, 11), values(7, 11))
    case("smooth_l1_zero", lambda x, t: F.smooth_l1_loss(x, t, beta=0.0), values(7, 11), values(7, 11))
    case("huber", F.huber_loss, values(7, 11), values(7, 11))
    case("huber_wide", lambda x, t: F.huber_loss(x, t, delta=2.5), values(7, 11), values(7, 11))
    case("bce", F.binary_cross_entropy_with_logits, values(7, 11), torch.rand(7, 11).float().double())
    case("bce_far", F.binary_cross_entropy_with_logits, values(7, 11, scale=30.0), (torch.rand(7, 11) < 0.5).double())
    positive = torch.tensor([0.5 + 0.25 * i for i in range(11)], dtype=torch.float64)
    case("bce_pos_weight", lambda x, t: F.binary_cross_entropy_with_logits(x, t, pos_weight=positive), values(7, 11), torch.rand(7, 11).float().double())
    log_x = F.log_softmax(values(7, 11), 1).float().double()
    p = F.softmax(values(7, 11), 1).float().double()
    p[0, :3] = 0
    case("kl", lambda x, t: F.kl_div(x, t), log_x, p)
    case("kl_batchmean", lambda x, t: F.kl_div(x, t, reduction="batchmean"), log_x, p)
    case("kl_log_target", lambda x, t: F.kl_div(x, t, reduction="sum", log_target=True), log_x, F.log_softmax(values(7, 11), 1).float().double())
    out.write(f"end\n# torch {torch.__version__}, seed {a.seed}\n")


main()
