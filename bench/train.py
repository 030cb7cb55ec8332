"""Trains a model with PyTorch, round by round. The argument describes it; see torch.go. The protocol is in runner.go."""
import json
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

spec = json.loads(sys.argv[1])
torch.set_num_threads(spec["threads"])
torch.manual_seed(0)
tuned, batch = spec["tuned"], spec["batch"]
rows, cols, channels = spec["input"]

layers = []
shape = (channels, rows, cols)
for l in spec["layers"]:
    if l["kind"] == "conv2d":
        layers.append(nn.Conv2d(shape[0], l["units"], (l["rows"], l["cols"]), l["stride"], l["padding"]))
    elif l["kind"] == "maxpool2d":
        layers.append(nn.MaxPool2d((l["rows"], l["cols"])))
    elif l["kind"] == "flatten":
        layers.append(nn.Flatten())
    else:
        layers.append(nn.Linear(shape[0], l["units"]))
    if l["relu"]:
        layers.append(nn.ReLU(inplace=tuned))
    shape = l["out"]
net = nn.Sequential(*layers)
params = sum(p.numel() for p in net.parameters())
assert params == spec["params"], (params, spec["params"])

images = spec["images"]
x = torch.rand(images, channels, rows, cols)
y = torch.randint(0, spec["classes"], (images,))
options = {}
if tuned:
    net = net.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    options["foreach"] = True
adam = torch.optim.Adam(net.parameters(), lr=spec["rate"], betas=spec["betas"], eps=spec["epsilon"], **options)
at = 0


def step():
    global at
    i = at % (images // batch) * batch
    at += 1
    loss = F.cross_entropy(net(x[i:i + batch]), y[i:i + batch])
    adam.zero_grad(set_to_none=True) if tuned else adam.zero_grad()
    loss.backward()
    adam.step()


def train(steps):
    step()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - begin) / steps


def evaluate(count, at_once=256):
    begin = time.perf_counter()
    with torch.no_grad():
        for done in range(0, count, at_once):
            i = done % images
            n = min(at_once, count - done, images - i)
            z = net(x[i:i + n])
            F.cross_entropy(z, y[i:i + n]).item()
    return count / (time.perf_counter() - begin)


def blas():
    """Names the BLAS that is loaded."""
    if torch.backends.mkl.is_available():
        return "MKL"
    with open("/proc/self/maps") as maps:
        files = {line.split()[-1] for line in maps if ".so" in line}
    # Debian's choice is behind libblas.so.3; other builds link OpenBLAS itself.
    for f in [f for f in files if "/libblas.so" in f] or files:
        if "openblas" in f:
            return "OpenBLAS"
        if "/libblas.so" in f:
            return "reference BLAS"
    return "its own BLAS"


step()
about = ["PyTorch " + torch.__version__, "Python " + sys.version.split()[0], blas()]
if torch.backends.mkldnn.is_available():
    about.append("oneDNN")
about += ["channels_last", "foreach Adam"] if tuned else ["default layout", "default Adam"]
print(json.dumps({"about": ", ".join(about)}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    print(json.dumps({"step": train(task["steps"]), "images": evaluate(task["images"])}), flush=True)
