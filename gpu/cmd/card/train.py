"""Trains the default model with PyTorch on a CUDA device and prints steps per second: eager, compiled, as a CUDA graph."""
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

device = torch.device("cuda", int(sys.argv[1]))
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
BATCH, STEPS, ROUNDS = 32, 500, 5
x = torch.rand(6400, 1, 28, 28, device=device)
y = torch.randint(0, 10, (6400,), device=device)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(5408, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)


def adam(net, **options):
    return torch.optim.Adam(net.parameters(), lr=0.001, eps=1e-7, **options)


def measure(name, step):
    for _ in range(50):
        step(0)
    rates = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for i in range(STEPS):
            step(i % 200 * BATCH)
        torch.cuda.synchronize()
        rates.append(STEPS / (time.perf_counter() - begin))
    print(f"pytorch {name:22s} {statistics.median(rates):10.0f} steps/s, best {max(rates):.0f}", flush=True)


def eager(forward, optimizer):
    def step(i):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(forward(x[i:i + BATCH]), y[i:i + BATCH]).backward()
        optimizer.step()
    return step


print(f"pytorch {torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name(device)}, TF32 off")
net = model()
measure("eager", eager(net, adam(net)))
net = model()
measure("eager, fused Adam", eager(net, adam(net, fused=True)))
try:
    net = model()
    measure("compiled, fused Adam", eager(torch.compile(net, mode="reduce-overhead"), adam(net, fused=True)))
except Exception as e:  # no compiler on this machine, say
    print("pytorch compiled: not possible:", str(e).splitlines()[0])
net = model()
optimizer = adam(net, fused=True, capturable=True)
xs, ys = x[:BATCH].clone(), y[:BATCH].clone()
side = torch.cuda.Stream()
with torch.cuda.stream(side):
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(xs), ys).backward()
        optimizer.step()
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
optimizer.zero_grad(set_to_none=True)
with torch.cuda.graph(graph):
    F.cross_entropy(net(xs), ys).backward()
    optimizer.step()


def replay(i):
    xs.copy_(x[i:i + BATCH])
    ys.copy_(y[i:i + BATCH])
    graph.replay()


measure("CUDA graph, fused Adam", replay)
