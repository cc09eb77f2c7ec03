"""Learning rates of PyTorch's schedulers over 100 steps, one line a case: name, then the rates as hexadecimal floats.

usage: generate.py tests/data/fixtures/schedule/rates.txt        (Debian's python3-torch)
"""
import sys
import warnings

import torch
from torch.optim import lr_scheduler as s

warnings.simplefilter("ignore")
out = open(sys.argv[1], "w")


def sequence(o):
    return s.SequentialLR(o, [s.LinearLR(o, 0.2, 1.0, 7), s.CosineAnnealingLR(o, 40, 0.01), s.ExponentialLR(o, 0.9)], [7, 50])


CASES = {
    "step_lr": lambda o: s.StepLR(o, 30, 0.1),
    "step_lr_7": lambda o: s.StepLR(o, 7, 0.5),
    "multi_step_lr": lambda o: s.MultiStepLR(o, [10, 30, 30, 77], 0.3),
    "exponential_lr": lambda o: s.ExponentialLR(o, 0.97),
    "cosine_annealing_lr": lambda o: s.CosineAnnealingLR(o, 60, 0.02),
    "linear_lr": lambda o: s.LinearLR(o, 0.25, 0.8, 33),
    "constant_lr": lambda o: s.ConstantLR(o, 0.4, 21),
    "polynomial_lr": lambda o: s.PolynomialLR(o, 80, 1.7),
    "lambda_lr": lambda o: s.LambdaLR(o, lambda e: 1 / (1 + e)),
    "cosine_annealing_warm_restarts": lambda o: s.CosineAnnealingWarmRestarts(o, 9, 2, 0.01),
    "cosine_annealing_warm_restarts_1": lambda o: s.CosineAnnealingWarmRestarts(o, 13),
    "one_cycle_lr": lambda o: s.OneCycleLR(o, 0.7, total_steps=101),
    "one_cycle_lr_linear": lambda o: s.OneCycleLR(o, 0.7, total_steps=110, pct_start=0.4, anneal_strategy="linear", div_factor=10, final_div_factor=50),
    "one_cycle_lr_three": lambda o: s.OneCycleLR(o, 0.7, total_steps=120, three_phase=True),
    "cyclic_lr": lambda o: s.CyclicLR(o, 0.1, 0.9, 12, 20),
    "cyclic_lr_2": lambda o: s.CyclicLR(o, 0.1, 0.9, 15, mode="triangular2"),
    "cyclic_lr_exp": lambda o: s.CyclicLR(o, 0.1, 0.9, 15, mode="exp_range", gamma=0.99),
    "sequence": sequence,
}

for name, make in CASES.items():
    o = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5, momentum=0.9)
    scheduler = make(o)
    rates = []
    for _ in range(100):
        rates.append(float(o.param_groups[0]["lr"]).hex())
        o.step()
        scheduler.step()
    print(name, *rates, file=out)


def metric(epoch):
    """Falls in stairs with noise; tests/unit/schedule/schedules.cpp has the same."""
    return 4 / (1 + epoch // 9) + (epoch * 37 + 11) % 17 / 16


PLATEAUS = {
    "plateau": dict(),
    "plateau_fast": dict(factor=0.5, patience=2, cooldown=3, min_lr=0.01),
    "plateau_max_abs": dict(mode="max", factor=0.7, patience=4, threshold=0.25, threshold_mode="abs", eps=1e-3),
}

for name, settings in PLATEAUS.items():
    o = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = s.ReduceLROnPlateau(o, **settings)
    rates = []
    for epoch in range(100):
        rates.append(float(o.param_groups[0]["lr"]).hex())
        scheduler.step(metric(epoch))
    print(name, *rates, file=out)
