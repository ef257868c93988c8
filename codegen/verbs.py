"""What each verb of the command ``chainrule`` does.

A verb takes the parsed options and returns its exit code, what ``--json`` prints, and what a
person reads; ``codegen.cli`` declares the options and prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codegen.progress import progress
from derive.errors import DeclarationError

OK, WRONG, USAGE, UNDECIDED, MISSING, INTERRUPTED = 0, 1, 2, 3, 4, 130
Outcome = tuple[int, dict[str, Any], str]  # exit code, what --json prints, what a person reads


def do_tour(args: argparse.Namespace) -> Outcome:
    from codegen.tour import tour

    result = tour(Path(args.out), force=args.force)
    return OK, result.to_dict(), str(result)


def do_document(args: argparse.Namespace) -> Outcome:
    from codegen.loading import load_model
    from derive.differentiate import derive
    from derive.document import write_document

    with progress("deriving"):
        derived = derive(load_model(args.model).program)
    out = args.out or f"{Path(args.model).stem}.html"
    with progress(f"writing {out}"):
        write_document(derived, out, lang=args.lang, detail=args.detail, check=not args.no_check,
                       force=args.force, flow=args.flow)
    return OK, {"document": out, "equations": len(derived.equations)}, f"wrote {out}"


def do_emit(args: argparse.Namespace) -> Outcome:
    import codegen
    from codegen.loading import load_model
    from derive.differentiate import derive

    with progress("deriving"):
        derived = derive(load_model(args.model).program)
    if args.show:
        text = codegen.show(derived, args.show, target=args.target)
        return OK, {"stage": args.show, "text": text}, text
    out = args.out or "kernels.py"
    with progress(f"writing {out}"):
        memory: list[str] = []
        codegen.emit(derived, out, target=args.target, optimizer=_optimizer(args),
                     dtype=args.dtype, force=args.force, report=memory.append,
                     recompute=_recompute(args.recompute), products=args.products,
                     tune=args.tune)
    return OK, {"module": out, "target": args.target, "memory": " ".join(memory)}, "\n".join(
        [f"wrote {out}", *memory, f"check it with: python {out} --self-test"])


def _recompute(text: str) -> str | int:
    """``--recompute``: a number of bytes, "auto" or "none"."""
    return int(text) if text.isdecimal() else text


def do_verify(args: argparse.Namespace) -> Outcome:
    from codegen.loading import load_model
    from derive.verify import verify

    program = load_model(args.model).program
    with progress("checking the gradient"):
        report = verify(program, _hand(Path(args.hand), args.function), seed=args.seed,
                        names=_pairs(args.name, "--name"), layout=_pairs(args.layout, "--layout"))
    if args.html:
        Path(args.html).write_text(report.to_html(), encoding="utf-8")
    return report.exit_code, report.to_dict(), str(report)


def do_train(args: argparse.Namespace) -> Outcome:
    from codegen.configuration import RunConfig, read_config
    from codegen.runs import train

    path = Path(args.model)
    config = read_config(path) if path.suffix == ".toml" else RunConfig(args.model)
    chosen = {"rule": args.optimizer, "lr": args.lr}
    changes = {n: v for n, v in chosen.items() if v is not None}
    config = config.changed(
        source=args.data, epochs=args.epochs, batch=args.batch, seed=args.seed,
        test_share=args.test_share, validation_share=args.validation_share,
        patience=args.patience, dtype=args.dtype, device=args.device, products=args.products,
        threads=args.threads,
        out=args.out, shard=args.shard, compress=args.compress,
        optimizer={**config.optimizer, **changes} if changes else None)
    if args.ranks is not None:
        return _launched(args)
    return _ran(train(config, args.force, args.team))


def do_resume(args: argparse.Namespace) -> Outcome:
    from codegen.runs import resume

    if args.ranks is not None:
        return _launched(args)
    return _ran(resume(Path(args.run), args.epochs, args.team, args.device))


def _launched(args: argparse.Namespace) -> Outcome:
    """Several ranks, each a process that runs the same verb; rank 0 prints."""
    from codegen.mpi.launch import launch

    return launch(args.argv, args.ranks, args.max_restarts), {}, ""


def _ran(result: Any) -> Outcome:
    codes = {"interrupted": INTERRUPTED, "not finite": WRONG}
    return codes.get(result.ended.reason, OK), result.to_dict(), str(result)


def do_search(args: argparse.Namespace) -> Outcome:
    from codegen.search import search

    result = search(Path(args.config), Path(args.out), args.processes, args.trials,
                    args.search_ranks)
    return OK, result.to_dict(), str(result)


def do_report(args: argparse.Namespace) -> Outcome:
    from codegen.reports import report

    data, text = report(Path(args.run))
    return OK, data, text


def do_replay(args: argparse.Namespace) -> Outcome:
    from codegen.reports import replay_file

    found, text = replay_file(Path(args.file), args.model)
    return WRONG if found["tensor"] else OK, found, text


def do_deploy(args: argparse.Namespace) -> Outcome:
    from codegen.deployment import deploy, read_trained
    from codegen.loading import load_model

    file = load_model(args.model)
    program = file.evaluation or file.program
    out = args.out or f"{Path(args.model).stem}_inference.py"
    with progress(f"writing {out}"):
        values = read_trained(args.weights, program)
        if Path(out).suffix == ".onnx":
            from derive.exporting import to_onnx

            to_onnx(program, values, out, args.output, args.dtype)
            return OK, {"onnx": out}, f"wrote {out}"
        done = deploy(program, values, out, args.output, args.dtype, force=args.force)
    return OK, done.to_dict(), str(done)


def do_diagnose(args: argparse.Namespace) -> Outcome:
    from codegen.flow import jacobian_lines, measured_diagnosis
    from codegen.loading import load_model
    from derive.files import write_atomically
    from derive.flow.diagnose import diagnose

    file, values, lines = load_model(args.model), None, []
    with progress("following the signal and the gradient"):
        if args.data or args.weights:
            diagnosis, values = measured_diagnosis(file, args.data, args.weights, args.seed)
        else:
            diagnosis = diagnose(file.program)
        if args.jacobians:
            lines = jacobian_lines(file.program, values)
    if args.out:
        write_atomically(Path(args.out), diagnosis.picture().encode())
    return OK, {**diagnosis.to_dict(), "jacobians": lines}, "\n".join([str(diagnosis), *lines])


def do_explain(args: argparse.Namespace) -> Outcome:
    from codegen.loading import load_model
    from derive.differentiate import derive
    from derive.explain import explain

    text = str(explain(derive(load_model(args.model).program), args.name))
    return OK, {"of": args.name, "text": text}, text


def do_doctor(args: argparse.Namespace) -> Outcome:
    from codegen.doctor import examine

    findings = examine()
    width = max(len(f.what) for f in findings)
    lines = [
        f"{f.state:8} {f.what:{width}}  {f.detail}" + (f"\n{'':9}→ {f.mend}" if f.mend else "")
        for f in findings
    ]
    broken = any(f.state == "broken" for f in findings)
    data = {"findings": [f.to_dict() for f in findings]}
    return MISSING if broken else OK, data, "\n".join(lines)


# -- parts of verbs -------------------------------------------------------------------------------
def _pairs(given: Sequence[str], option: str) -> dict[str, Any]:
    """``NAME=VALUE`` options as a dictionary; whole numbers are numbers."""
    found: dict[str, Any] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key or not value:
            raise DeclarationError(f"{option} {text!r} is no pair", expected="NAME=VALUE",
                                   got=repr(text), mend=f"such as {option} "
                                   + ("X=x" if option == "--name" else "samples=columns"))
        found[key] = int(value) if value.isdigit() else value
    return found


def _hand(path: Path, name: str | None) -> Any:
    """The gradient in a file: a function of a Python file, index equations of a text file, or a
    derivation in LaTeX."""
    from codegen.loading import run_file

    if not path.is_file():
        raise DeclarationError(
            f"{str(path)!r} is a folder" if path.is_dir() else f"there is no file {str(path)!r}",
            expected="the gradient's file")
    if path.suffix in (".net", ".txt"):
        return path.read_text(encoding="utf-8")
    if path.suffix == ".tex":
        return path
    if path.suffix != ".py":
        raise DeclarationError(
            f"a gradient cannot be read from {path.name!r}",
            expected="a function in a .py file, index equations in a .net or .txt file, or a "
            "derivation in a .tex file",
            got=path.suffix or "no ending",
            mend="write it as index equations: d_W[i, j] = sum[b](x[b, i]*d_z[b, j])")
    names = run_file(path)
    wanted = (name,) if name else ("backward", "gradient", "grad")
    for n in wanted:
        if callable(names.get(n)):
            return names[n]
    own = {n: f for n, f in names.items() if not n.startswith("_") and callable(f)
           and Path(getattr(getattr(f, "__code__", None), "co_filename", "")).name == path.name}
    if len(own) == 1 and name is None:
        return next(iter(own.values()))
    found = next((f"{n} is of type {type(names[n]).__name__}" for n in wanted if n in names), "")
    raise DeclarationError(
        f"which function of {path.name} is the gradient?",
        expected="a function backward(…), or --function NAME",
        got=found or ", ".join(own) or "no function",
    )


def _optimizer(args: argparse.Namespace) -> Any:
    from derive.optimizers import make_optimizer

    return make_optimizer({"rule": args.optimizer, **({} if args.lr is None else {"lr": args.lr})})
