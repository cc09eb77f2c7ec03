"""Whole training runs pass between PyTorch and the library, in both directions, and go on as if nothing had happened.

usage: torch_training.py TRAINING_TOOL            exits with 77 (skipped) where torch cannot be imported (Debian: python3-torch)

For each recipe (rule, settings, schedule): PyTorch trains, saves and trains on; the library loads that file and trains the same steps;
then the other way round. Parameters and buffers of both continuations agree within float rounding.
"""
import os
import subprocess
import sys
import tempfile
import warnings

try:
    import torch
except ImportError as e:
    print("skipped:", e)
    sys.exit(77)
from torch import nn, optim
from torch.optim import lr_scheduler as schedules

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
tool = sys.argv[1]
version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2] if part.isdigit())
EPOCH, BEFORE, AFTER = 2, 6, 8  # steps an epoch, before and after the change of hands


def groups(net):
    biases = [p for n, p in net.named_parameters() if n.endswith("bias")]
    return [{"params": [p for n, p in net.named_parameters() if not n.endswith("bias")]}, {"params": biases, "lr": 0.02, "weight_decay": 0.0}]


RECIPES = {
    "sgd": (lambda n: optim.SGD(n.parameters(), lr=0.1, momentum=0.9, dampening=0.2, weight_decay=1e-3), lambda o: schedules.StepLR(o, 2, 0.5)),
    "restarts": (lambda n: optim.SGD(n.parameters(), lr=0.1, momentum=0.9), lambda o: schedules.CosineAnnealingWarmRestarts(o, 2, 2, 1e-3)),
    "nesterov": (lambda n: optim.SGD(n.parameters(), lr=0.1, momentum=0.9, nesterov=True), lambda o: schedules.ExponentialLR(o, 0.9)),
    "adam": (lambda n: optim.Adam(n.parameters(), lr=0.01, weight_decay=1e-3, amsgrad=True), lambda o: schedules.MultiStepLR(o, [1, 3], 0.5)),
    "rmsprop": (lambda n: optim.RMSprop(n.parameters(), lr=0.01, momentum=0.5, centered=True),
                lambda o: schedules.ReduceLROnPlateau(o, factor=0.5, patience=1)),
    "adagrad": (lambda n: optim.Adagrad(n.parameters(), lr=0.05, lr_decay=1e-2), lambda o: schedules.ExponentialLR(o, 0.9)),
    "adamw": (lambda n: optim.AdamW(groups(n), lr=0.01, betas=(0.8, 0.95)), lambda o: schedules.CosineAnnealingLR(o, 8, 1e-3)),
}


def sample(row, column, step):
    return ((row * 7 + column * 5 + step * 3) % 11) / 8 - 0.625


class Run:
    def __init__(self, recipe):
        torch.manual_seed(3)
        # A bias straight in front of batch norm would have no gradient but rounding, which the adaptive rules blow up.
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 3))
        self.opt = RECIPES[recipe][0](self.net)
        self.schedule = RECIPES[recipe][1](self.opt)
        self.epoch = 0

    def steps(self, n):
        for i in range(n):
            s = self.epoch * EPOCH + i % EPOCH
            x = torch.tensor([[sample(r, c, s) for c in range(4)] for r in range(16)])
            y = torch.tensor([sample(k % 3, k // 3, s + 1) for k in range(48)]).reshape(16, 3)
            self.opt.zero_grad()
            nn.functional.mse_loss(self.net(x), y).backward()
            self.opt.step()
            if i % EPOCH == EPOCH - 1:
                self.schedule.step(1.0) if isinstance(self.schedule, schedules.ReduceLROnPlateau) else self.schedule.step()
                self.epoch += 1

    def tree(self):
        return {"model_state_dict": self.net.state_dict(), "optimizer_state_dict": self.opt.state_dict(),
                "scheduler_state_dict": self.schedule.state_dict(), "epoch": self.epoch}

    def load(self, tree):
        self.net.load_state_dict(tree["model_state_dict"])
        self.opt.load_state_dict(tree["optimizer_state_dict"])
        self.schedule.load_state_dict(tree["scheduler_state_dict"])
        self.epoch = tree["epoch"]


def read(path):
    return torch.load(path, weights_only=True) if version >= (2, 0) else torch.load(path)


def same(a, b, what):
    # A step rounds each value a few times; its change is bounded by the values themselves. 64 half units in the last place for each step.
    for name, left in a.items():
        right = b[name]
        assert left.shape == right.shape and left.dtype == right.dtype, (what, name)
        bound = 64 * 2.0**-24 * AFTER * max(1.0, left.abs().max().item()) if left.is_floating_point() else 0
        worst = (left - right).abs().max().item()
        assert worst <= bound, "%s: %s differs by %g, more than %g" % (what, name, worst, bound)


def same_optimizers(a, b, what):
    assert [g["params"] for g in a["param_groups"]] == [g["params"] for g in b["param_groups"]], what
    for ga, gb in zip(a["param_groups"], b["param_groups"]):
        for key in ("lr", "momentum", "betas", "weight_decay", "eps", "alpha"):
            if key in ga:
                assert torch.allclose(torch.tensor(ga[key], dtype=torch.float64), torch.tensor(gb[key], dtype=torch.float64), rtol=1e-12), (what, key, ga[key], gb[key])
    for i, slots in a["state"].items():
        for slot, value in slots.items():
            other = b["state"][i].get(slot)
            if slot == "step" and "momentum_buffer" in slots and "square_avg" not in slots:
                continue  # PyTorch's SGD carries our count and does not count itself
            if isinstance(value, torch.Tensor):
                same({slot: value.float()}, {slot: torch.as_tensor(other).float()}, what + " state %s" % i)


def same_schedules(theirs, ours, what):
    # Settings have PyTorch's names; what differs is only what PyTorch keeps for itself.
    assert {"last_epoch"} < set(ours), what
    for key, value in ours.items():
        if key == "_step_count":
            continue  # of warm restarts 1.13 counts none
        if key == "milestones":
            assert dict(value) == dict(theirs[key]), (what, value, theirs[key])
        elif key in theirs:
            assert torch.allclose(torch.tensor(value, dtype=torch.float64), torch.tensor(theirs[key], dtype=torch.float64), rtol=1e-12) if not isinstance(value, str) else value == theirs[key], (what, key, value, theirs[key])


with tempfile.TemporaryDirectory() as folder:
    path = lambda name: os.path.join(folder, name)
    train = lambda *a: subprocess.run([tool, *map(str, a)], check=True)
    for recipe in RECIPES:
        theirs = Run(recipe)
        theirs.steps(BEFORE)
        torch.save(theirs.tree(), path("theirs.pt"))
        torch.save(theirs.tree(), path("legacy.pth"), _use_new_zipfile_serialization=False)
        # The other keys that scripts use for the same things.
        torch.save({"state_dict": theirs.net.state_dict(), "optimizer": theirs.opt.state_dict(), "lr_scheduler": theirs.schedule.state_dict(),
                    "epoch": theirs.epoch}, path("other_keys.pt"))
        theirs.steps(AFTER)
        for name in ("theirs.pt", "legacy.pth", "other_keys.pt"):
            train(recipe, path(name), AFTER, path("ours.pt"))
            ours = read(path("ours.pt"))
            same(theirs.net.state_dict(), ours["model_state_dict"], recipe + " from " + name)
            same_optimizers(theirs.opt.state_dict(), ours["optimizer_state_dict"], recipe + " from " + name)
            assert ours["epoch"] == theirs.epoch
            same_schedules(theirs.schedule.state_dict(), ours["scheduler_state_dict"], recipe + " from " + name)

        train(recipe, "-", BEFORE, path("start.pt"))
        train(recipe, path("start.pt"), AFTER, path("continued.pt"))
        taken_over = Run(recipe)
        taken_over.load(read(path("start.pt")))
        taken_over.steps(AFTER)
        continued = read(path("continued.pt"))
        same(taken_over.net.state_dict(), continued["model_state_dict"], recipe + " from ours")
        same_schedules(taken_over.schedule.state_dict(), continued["scheduler_state_dict"], recipe + " from ours")
        same_optimizers(continued["optimizer_state_dict"], taken_over.opt.state_dict(), recipe + " from ours")

        # Through safetensors, which loses nothing of a run.
        train(recipe, path("theirs.pt"), 0, path("copy.safetensors"))
        train(recipe, path("copy.safetensors"), AFTER, path("ours.pt"))
        same(theirs.net.state_dict(), read(path("ours.pt"))["model_state_dict"], recipe + " through safetensors")
        if recipe == "sgd":
            refused = subprocess.run([tool, "sgd, other schedule", path("theirs.pt"), "1", path("none.pt")], stderr=subprocess.PIPE, universal_newlines=True)
            assert refused.returncode == 1 and "scheduler_state_dict.step_size (file 2, model 3)" in refused.stderr, refused.stderr
        print("torch %s, %s: both directions" % (torch.__version__, recipe), flush=True)
