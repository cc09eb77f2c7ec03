"""The peer of scaling.cpp: PyTorch on one process with one and two threads, and DistributedDataParallel (gloo) on two processes.

usage: torch_ddp.py [ROUNDS]
"""
import os
import statistics
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

BATCH = 1024


def network():
    torch.manual_seed(1)
    n = torch.nn
    return n.Sequential(n.Linear(784, 512), n.ReLU(), n.Linear(512, 512), n.ReLU(), n.Linear(512, 10))


def stepper(net, batch):
    x, y = torch.rand(batch, 784) * 2 - 1, torch.randint(0, 10, (batch,))
    loss = torch.nn.CrossEntropyLoss()
    opt = torch.optim.SGD(net.parameters(), lr=0.01)

    def step():
        opt.zero_grad(set_to_none=True)
        loss(net(x), y).backward()
        opt.step()
    return step


def measure(step, rounds, steps=5):
    for _ in range(5):
        step()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        times.append((time.perf_counter() - start) / steps * 1e3)
    return statistics.median(times), min(times)


def process(rank, rounds):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29531")
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    net = torch.nn.parallel.DistributedDataParallel(network())
    result = measure(stepper(net, BATCH // 2), rounds)
    if rank == 0:
        print("mlp_1024   PyTorch DDP, 2 processes     %8.3f ms a step (least %.3f)" % result, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    for threads in (1, 2):
        torch.set_num_threads(threads)
        print("mlp_1024   PyTorch, %d thread%s           " % (threads, "s" if threads > 1 else " ") +
              "%8.3f ms a step (least %.3f)" % measure(stepper(network(), BATCH), rounds), flush=True)
    mp.spawn(process, args=(rounds,), nprocs=2)
