"""The networks of `examples/configs` trained by `chainrule train`, beside the same in PyTorch.

    python benchmarks/training.py --torch /path/to/python-with-torch [--seeds 3] [NAME …]

Both sides get the same arrays (the same split), minibatches of the same size, the same optimizer
and schedule and as many epochs, and one thread each; initial values and the order of the rows are
each side's own. Printed: the figure on held-out rows of each seed, and the seconds of training
alone (without compiling, importing and measuring).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "examples" / "configs"
FIGURE = {"digits_mlp": "accuracy", "digits_cnn": "accuracy", "autoencoder": "test_loss",
          "char_lstm": "test_loss", "diabetes": "r2", "breast_cancer": "binary_accuracy"}


# -- this side ------------------------------------------------------------------------------------
def chainrule(name: str, seed: int, folder: Path) -> dict[str, float]:
    """Train by the configuration, all epochs; leave the arrays for the other side."""
    from dataclasses import replace

    from codegen.configuration import read_config
    from codegen.datasets import load_data
    from codegen.loading import load_model
    from codegen.session import prepare, run

    config = read_config(CONFIGS / f"{name}.toml")
    file = load_model(config.model)
    parts = load_data(file, config.data.source, test_share=config.data.test_share,
                      validation_share=config.data.validation_share, seed=0)
    plan = replace(config.plan, seed=seed, patience=0)
    session = prepare(file.program, parts, plan, config.make_optimizer(), dtype=config.dtype,
                      threads=1)
    run(session)
    train, test = parts.train.take(), parts.test.take()
    np.savez(folder / f"{name}.npz", **{f"train_{n}": a for n, a in train.items()},
             **{f"test_{n}": a for n, a in test.items()})
    return {"figure": session.history[-1][FIGURE[name]], "seconds": session.training.at.seconds}


# -- the other side -------------------------------------------------------------------------------
def torch_network(name: str, torch: Any, data: Any) -> Any:
    """The same layers in PyTorch."""
    nn = torch.nn

    class Characters(nn.Module):
        def __init__(self, letters: int) -> None:
            super().__init__()
            self.table = nn.Embedding(letters, 24)
            self.lstm = nn.LSTM(24, 64, batch_first=True)
            self.out = nn.Linear(64, letters)

        def forward(self, x: Any) -> Any:
            return self.out(self.lstm(self.table(x))[0])

    if name == "char_lstm":
        return Characters(int(data["train_x"].max()) + 1)
    return {
        "digits_mlp": lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128),
                                            nn.ReLU(), nn.Linear(128, 10)),
        "digits_cnn": lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        "autoencoder": lambda: nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8), nn.Linear(8, 64), nn.ReLU(),
            nn.Linear(64, 64), nn.Sigmoid()),
        "diabetes": lambda: nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1)),
        "breast_cancer": lambda: nn.Linear(30, 1),
    }[name]()


def rate(spec: Any, t: int) -> float:
    """The learning rate of step t, 1 for the first, by the schedules of the configurations."""
    if not isinstance(spec, dict):
        return float(spec)
    if spec["kind"] == "warmup":
        inner = spec["lr"]
        top = rate(inner, 1)
        return top * t / spec["warmup"] if t <= spec["warmup"] else rate(inner, t - spec["warmup"])
    share = min(1.0, (t - 1) / spec["steps"])
    return spec["lr"] * (1 + math.cos(math.pi * share)) / 2


def torch_side(name: str, seed: int, path: str, config: dict[str, Any]) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = np.load(path)
    double = config["dtype"] == "float64"
    real = torch.float64 if double else torch.float32

    def tensor(key: str) -> Any:
        array = data[key]
        return torch.tensor(array, dtype=torch.int64 if array.dtype.kind in "iu" else real)

    net = torch_network(name, torch, data).to(real)
    target = "x" if name == "autoencoder" else "t"
    x, t, x_test, t_test = (tensor(f"{p}_{n}") for p in ("train", "test") for n in ("x", target))
    loss_of = {"autoencoder": torch.nn.functional.mse_loss, "diabetes":
               torch.nn.functional.mse_loss, "breast_cancer":
               torch.nn.functional.binary_cross_entropy_with_logits}.get(name)

    def loss(y: Any, want: Any) -> Any:
        if loss_of is not None:
            extra = net.weight.square().sum() / 2 / len(x) if name == "breast_cancer" else 0
            return loss_of(y, want) + extra
        return torch.nn.functional.cross_entropy(y.reshape(-1, y.shape[-1]), want.reshape(-1))

    spec, plan = config["optimizer"], config["plan"]
    lr = rate(spec["lr"], 1)
    optimizer = {
        "adam": lambda: torch.optim.Adam(net.parameters(), lr=lr),
        "adamw": lambda: torch.optim.AdamW(net.parameters(), lr=lr,
                                           weight_decay=spec.get("decay", 0.01)),
        "nesterov": lambda: torch.optim.SGD(net.parameters(), lr=lr, momentum=spec["beta"],
                                            nesterov=True),
    }[spec["rule"]]()
    step, start = 0, time.perf_counter()
    for _ in range(plan["epochs"]):
        order = torch.randperm(len(x))
        for rows in order.split(plan["batch"]):
            step += 1
            optimizer.param_groups[0]["lr"] = rate(spec["lr"], step)
            optimizer.zero_grad(set_to_none=True)
            loss(net(x[rows]), t[rows]).backward()
            if "clip_norm" in spec:
                torch.nn.utils.clip_grad_norm_(net.parameters(), spec["clip_norm"])
            optimizer.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        y = net(x_test)
        if FIGURE[name] == "accuracy":
            figure = (y.argmax(-1) == t_test).double().mean()
        elif FIGURE[name] == "binary_accuracy":
            figure = ((y > 0) == (t_test > 0.5)).double().mean()
        elif FIGURE[name] == "r2":
            figure = 1 - (y - t_test).square().sum() / (t_test - t_test.mean()).square().sum()
        else:
            figure = loss(y, t_test)
    return {"figure": float(figure), "seconds": seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(FIGURE))
    parser.add_argument("--torch", help="a Python that has PyTorch; left out: this side alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--as-torch", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_torch:
        name, seed, path, config = args.as_torch
        print(json.dumps(torch_side(name, int(seed), path, json.loads(config))))
        return 0
    from codegen.configuration import read_config

    for name in args.names:
        with tempfile.TemporaryDirectory() as folder:
            mine = [chainrule(name, seed, Path(folder)) for seed in range(args.seeds)]
            config = json.dumps(read_config(CONFIGS / f"{name}.toml").to_dict())
            other = [json.loads(subprocess.run(
                [args.torch, __file__, "--as-torch", name, str(seed), f"{folder}/{name}.npz",
                 config], capture_output=True, text=True, check=True).stdout)
                for seed in range(args.seeds)] if args.torch else []
        for side, rows in (("chainrule", mine), ("PyTorch", other)):
            figures = ", ".join(f"{row['figure']:.4f}" for row in rows)
            seconds = ", ".join(f"{row['seconds']:.2f}" for row in rows)
            print(f"{name:14} {side:10} {FIGURE[name]:16} {figures}   seconds {seconds}",
                  flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
