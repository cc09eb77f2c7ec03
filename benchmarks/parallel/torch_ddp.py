"""The peer of scaling.cpp: PyTorch on one process with one and two threads, and DistributedDataParallel (gloo) on two processes.

usage: torch_ddp.py [ROUNDS]

Each measurement runs in processes of its own, since libraries of products read their number of threads from the environment when they start.
"""
import os
import statistics
import subprocess
import sys
import time

BATCH = 1024


def measure(name, batch, rounds, parallel, quiet, steps=5):
    import torch
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(1)
    n = torch.nn
    net = n.Sequential(n.Linear(784, 512), n.ReLU(), n.Linear(512, 512), n.ReLU(), n.Linear(512, 10))
    if parallel:
        torch.distributed.init_process_group("gloo")
        net = n.parallel.DistributedDataParallel(net)
    x, y = torch.rand(batch, 784) * 2 - 1, torch.randint(0, 10, (batch,))
    loss = n.CrossEntropyLoss()
    opt = torch.optim.SGD(net.parameters(), lr=0.01)

    def step():
        opt.zero_grad(set_to_none=True)
        loss(net(x), y).backward()
        opt.step()
    for _ in range(5):
        step()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        times.append((time.perf_counter() - start) / steps * 1e3)
    if not quiet:
        print(f"mlp_1024   {name:28s} {statistics.median(times):8.3f} ms a step (least {min(times):.3f})", flush=True)


def start(threads, *arguments, rank=None):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads),
                       OMP_WAIT_POLICY="passive")
    if rank is not None:
        environment.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29531", RANK=str(rank), WORLD_SIZE="2")
    return subprocess.Popen([sys.executable, __file__, "measure", *map(str, arguments)], env=environment)


def main():
    if len(sys.argv) > 2:
        name, batch, rounds, parallel, quiet = sys.argv[2:7]
        return measure(name, int(batch), int(rounds), parallel == "True", quiet == "True")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    for threads in (1, 2):
        start(threads, f"PyTorch, {threads} thread{'s' * (threads > 1)}", BATCH, rounds, False, False).wait()
    processes = [start(1, "PyTorch DDP, 2 processes", BATCH // 2, rounds, True, rank != 0, rank=rank) for rank in (0, 1)]
    for p in processes:
        p.wait()


main()
