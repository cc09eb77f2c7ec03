"""The peer of scaling.cpp: PyTorch on one process with one and two threads, and DistributedDataParallel (gloo) on two processes.

usage: torch_ddp.py [ROUNDS] [NETWORK]...     networks: mlp (batch 1024), resnet18 (32 x 32, batch 32)

Each measurement runs in processes of its own, since libraries of products read their number of threads from the environment when they start.
"""
import os
import statistics
import subprocess
import sys
import time

BATCH = {"mlp": 1024, "resnet18": 32}
STEPS = {"mlp": 5, "resnet18": 1}


def network_and_input(network, batch):
    import torch
    n = torch.nn
    if network == "mlp":
        return n.Sequential(n.Linear(784, 512), n.ReLU(), n.Linear(512, 512), n.ReLU(), n.Linear(512, 10)), torch.rand(batch, 784) * 2 - 1

    class Block(n.Module):
        def __init__(self, before, after, stride):
            super().__init__()
            self.body = n.Sequential(n.Conv2d(before, after, 3, stride, 1, bias=False), n.BatchNorm2d(after), n.ReLU(),
                                     n.Conv2d(after, after, 3, 1, 1, bias=False), n.BatchNorm2d(after))
            self.shortcut = n.Sequential() if stride == 1 else n.Sequential(n.Conv2d(before, after, 1, stride, bias=False), n.BatchNorm2d(after))

        def forward(self, x):
            return torch.relu(self.body(x) + self.shortcut(x))

    net = n.Sequential(n.Conv2d(3, 64, 3, 1, 1, bias=False), n.BatchNorm2d(64), n.ReLU(), Block(64, 64, 1), Block(64, 64, 1), Block(64, 128, 2),
                       Block(128, 128, 1), Block(128, 256, 2), Block(256, 256, 1), Block(256, 512, 2), Block(512, 512, 1), n.AdaptiveAvgPool2d(1),
                       n.Flatten(), n.Linear(512, 10))
    return net, torch.rand(batch, 3, 32, 32) * 2 - 1


def measure(network, name, batch, rounds, parallel, quiet):
    import torch
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(1)
    net, x = network_and_input(network, batch)
    y = torch.randint(0, 10, (batch,))
    if parallel:
        torch.distributed.init_process_group("gloo")
        net = torch.nn.parallel.DistributedDataParallel(net)
    loss = torch.nn.CrossEntropyLoss()
    steps = STEPS[network]
    opt = torch.optim.SGD(net.parameters(), lr=0.01)

    def step():
        opt.zero_grad(set_to_none=True)
        loss(net(x), y).backward()
        opt.step()
    for _ in range(2):
        step()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        times.append((time.perf_counter() - start) / steps * 1e3)
    if not quiet:
        print(f"{network + '_' + str(BATCH[network]):12s} {name:28s} {statistics.median(times):8.3f} ms a step (least {min(times):.3f})", flush=True)


def start(threads, *arguments, rank=None):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads),
                       OMP_WAIT_POLICY="passive")
    if rank is not None:
        environment.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29531", RANK=str(rank), WORLD_SIZE="2")
    return subprocess.Popen([sys.executable, __file__, "measure", *map(str, arguments)], env=environment)


def main():
    if sys.argv[1:2] == ["measure"]:
        network, name, batch, rounds, parallel, quiet = sys.argv[2:8]
        return measure(network, name, int(batch), int(rounds), parallel == "True", quiet == "True")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    for network in sys.argv[2:] or list(BATCH):
        for threads in (1, 2):
            start(threads, network, f"PyTorch, {threads} thread{'s' * (threads > 1)}", BATCH[network], rounds, False, False).wait()
        processes = [start(1, network, "PyTorch DDP, 2 processes", BATCH[network] // 2, rounds, True, rank != 0, rank=rank) for rank in (0, 1)]
        for p in processes:
            p.wait()


main()
