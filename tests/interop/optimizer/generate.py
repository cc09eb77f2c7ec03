#!/usr/bin/env python3
"""Parameters and state after 1, 2, 10 and 100 steps of PyTorch's optimizers in float64. Usage: generate.py OUT [--seed N]

Parameters and gradients are short binary fractions made of integers (see `start` and `gradient`), so that floats hold them exactly and
tests/unit/optimizer/pytorch.cpp makes the same ones. The settings of each case stand there under the same name.
"""
import argparse
import sys

try:
    import torch
except ImportError:
    sys.exit(77)  # Meson: skipped

SIZES = [15, 3, 16, 3]


torch.set_default_dtype(torch.float64)  # NAdam keeps the product of its momenta in the default type


def start(i, seed):
    return ((i * 13 + seed) % 29 - 14) / 16


def gradient(step, i, seed):
    return ((step * 31 + i * 17 + step * i * seed) % 23 - 11) / 8


def line(name, values):
    return f"{name} {len(values)} " + " ".join(float(v).hex() for v in values) + "\n"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out")
    arguments.add_argument("--seed", type=int, default=1)
    a = arguments.parse_args()
    out = open(a.out, "w")

    def case(name, make, slots=(), clip=None, groups=None):
        at = 0
        parameters = []
        for size in SIZES:
            parameters.append(torch.tensor([start(at + k, a.seed) for k in range(size)], dtype=torch.float64, requires_grad=True))
            at += size
        optimizer = make(groups(parameters) if groups else parameters)
        out.write(f"case {name}\n" + line("seed", [a.seed]))
        for step in range(1, 101):
            at = 0
            for p in parameters:
                p.grad = torch.tensor([gradient(step, at + k, a.seed) for k in range(len(p))], dtype=torch.float64)
                at += len(p)
            if clip:
                clip(parameters)
            optimizer.step()
            if step in (1, 2, 10, 100):
                out.write(line(f"after{step}", [v for p in parameters for v in p.tolist()]))
        for slot in slots:
            out.write(line(slot, [v for p in parameters for v in optimizer.state[p][slot].tolist()]))

    o = torch.optim
    case("sgd", lambda p: o.SGD(p, lr=0.01))
    case("sgd_decay_maximize", lambda p: o.SGD(p, lr=0.01, weight_decay=0.05, maximize=True))
    case("sgd_momentum", lambda p: o.SGD(p, lr=0.01, momentum=0.9), ["momentum_buffer"])
    case("sgd_all", lambda p: o.SGD(p, lr=0.01, momentum=0.9, dampening=0.3, weight_decay=0.01), ["momentum_buffer"])
    case("sgd_nesterov", lambda p: o.SGD(p, lr=0.01, momentum=0.8, weight_decay=0.01, nesterov=True), ["momentum_buffer"])
    moments = ["exp_avg", "exp_avg_sq"]
    case("adam", lambda p: o.Adam(p), moments)
    case("adam_decay", lambda p: o.Adam(p, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1), moments)
    case("adam_amsgrad", lambda p: o.Adam(p, lr=0.01, amsgrad=True), moments + ["max_exp_avg_sq"])
    case("adam_maximize", lambda p: o.Adam(p, lr=0.01, weight_decay=0.01, maximize=True), moments)
    case("adamw", lambda p: o.AdamW(p), moments)
    case("adamw_all", lambda p: o.AdamW(p, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1, amsgrad=True), moments + ["max_exp_avg_sq"])
    case("sgd_clip_norm", lambda p: o.SGD(p, lr=0.01, momentum=0.9), clip=lambda p: torch.nn.utils.clip_grad_norm_(p, 2.5))
    case("sgd_clip_norm_wide", lambda p: o.SGD(p, lr=0.01), clip=lambda p: torch.nn.utils.clip_grad_norm_(p, 1000.0))
    case("sgd_clip_value", lambda p: o.SGD(p, lr=0.01), clip=lambda p: torch.nn.utils.clip_grad_value_(p, 0.5))
    case("adamw_groups", lambda g: o.AdamW(g, lr=0.01),
         groups=lambda p: [{"params": p[2:3]}, {"params": p[0:2], "lr": 0.001}, {"params": p[3:4], "weight_decay": 0.0}])
    if hasattr(o, "RMSprop"):
        case("rmsprop", lambda p: o.RMSprop(p, lr=0.01), ["square_avg"])
        case("rmsprop_momentum", lambda p: o.RMSprop(p, lr=0.01, alpha=0.9, momentum=0.9, weight_decay=0.01), ["square_avg", "momentum_buffer"])
        case("rmsprop_centered", lambda p: o.RMSprop(p, lr=0.01, centered=True, momentum=0.5), ["square_avg", "momentum_buffer", "grad_avg"])
        case("adagrad", lambda p: o.Adagrad(p), ["sum"])
        case("adagrad_all", lambda p: o.Adagrad(p, lr=0.05, lr_decay=0.1, weight_decay=0.01, initial_accumulator_value=0.5), ["sum"])
        case("adadelta", lambda p: o.Adadelta(p), ["square_avg", "acc_delta"])
        case("adadelta_all", lambda p: o.Adadelta(p, lr=0.5, rho=0.8, eps=1e-5, weight_decay=0.01), ["square_avg", "acc_delta"])
        # foreach: its one-tensor form multiplies mu_t in twice in PyTorch 1.13 (mended in 2.0)
        case("nadam", lambda p: o.NAdam(p, foreach=True), moments)
        case("nadam_all", lambda p: o.NAdam(p, lr=0.01, betas=(0.8, 0.95), weight_decay=0.01, momentum_decay=0.01, foreach=True), moments)
        case("radam", lambda p: o.RAdam(p), moments)
        case("radam_all", lambda p: o.RAdam(p, lr=0.01, betas=(0.8, 0.95), weight_decay=0.01), moments)
    out.write(f"end\n# torch {torch.__version__}, seed {a.seed}\n")


main()
