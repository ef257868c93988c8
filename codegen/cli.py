"""The command ``chainrule``: verbs, their options, exit codes.

Exit codes: 0 done, proved or agrees; 1 wrong; 2 usage or bad input; 3 undecided; 4 something is
missing on this machine; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from codegen.progress import progress
from derive import __version__
from derive.errors import ChainruleError, DeclarationError, MissingError

OK, WRONG, USAGE, UNDECIDED, MISSING, INTERRUPTED = 0, 1, 2, 3, 4, 130
Outcome = tuple[int, dict[str, Any], str]  # exit code, what --json prints, what a person reads


# -- verbs --------------------------------------------------------------------------------------
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
        codegen.emit(derived, out, target=args.target, optimizer=_optimizer(args),
                     dtype=args.dtype, force=args.force)
    return OK, {"module": out, "target": args.target}, (
        f"wrote {out}\ncheck it with: python {out} --self-test"
    )


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
        patience=args.patience, dtype=args.dtype, threads=args.threads, out=args.out,
        shard=args.shard, compress=args.compress,
        optimizer={**config.optimizer, **changes} if changes else None)
    if args.ranks is not None:
        return _launched(args)
    return _ran(train(config, args.force, args.team))


def do_resume(args: argparse.Namespace) -> Outcome:
    from codegen.runs import resume

    if args.ranks is not None:
        return _launched(args)
    return _ran(resume(Path(args.run), args.epochs, args.team))


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

    program = load_model(args.model).program
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
        raise DeclarationError(f"there is no file {str(path)!r}", expected="the gradient's file")
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
    own = {
        n: f for n, f in run_file(path).items()
        if callable(f) and getattr(f, "__code__", None) is not None
        and Path(f.__code__.co_filename).name == path.name and not n.startswith("_")
    }
    if name is None:
        name = next((n for n in ("backward", "gradient", "grad") if n in own), None)
        name = name or (next(iter(own)) if len(own) == 1 else None)
    if name not in own:
        raise DeclarationError(
            f"which function of {path.name} is the gradient?",
            expected="a function backward(…), or --function NAME",
            got=", ".join(own) or "no function",
        )
    return own[name]


def _optimizer(args: argparse.Namespace) -> Any:
    from derive.optimizers import make_optimizer

    return make_optimizer({"rule": args.optimizer, **({} if args.lr is None else {"lr": args.lr})})


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    root = argparse.ArgumentParser(
        prog="chainrule",
        description="From a network's equations: the derivation, the kernels, a verdict on yours.",
        epilog="exit codes: 0 done or proved, 1 wrong, 2 bad input, 3 undecided, 4 missing here",
    )
    root.add_argument("--version", action="version", version=f"chainrule {__version__}")
    verbs = root.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, action: Callable[[argparse.Namespace], Outcome], text: str,
             model: bool = True) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(action=action)
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        if model:
            sub.add_argument("model", help="a Python file that declares a network, or a .net text")
        return sub

    sub = verb("tour", do_tour, "the whole way on real digits: document, kernels, checks, training",
               model=False)
    sub.add_argument("--out", default="chainrule-tour", help="folder to write to")
    _force(sub)

    sub = verb("document", do_document, "write the derivation of every gradient")
    sub.add_argument("-o", "--out", help="a name in .html .tex .pdf .md or .ipynb")
    sub.add_argument("--lang", default="en", help="en or zh")
    sub.add_argument("--detail", default="standard", choices=["summary", "standard", "full"])
    sub.add_argument("--no-check", action="store_true", help="leave the numeric check out")
    sub.add_argument("--flow", action="store_true", help="a section on how signals and gradients "
                     "flow: forecast, diagnosis, remedies, Jacobians")
    _force(sub)

    sub = verb("emit", do_emit, "write a standalone module that trains the network")
    sub.add_argument("-o", "--out", help="the module's file (kernels.py)")
    sub.add_argument("--target", default="cpu", help="cpu or cuda")
    sub.add_argument("--show", metavar="STAGE",
                     help="print a stage: simplified, packed, schedule, memory, loops, cost (of "
                          "--target cuda) or text")
    _training(sub)
    _force(sub)

    sub = verb("verify", do_verify, "a verdict on a gradient that you derived by hand")
    sub.add_argument("hand", help="a Python file with backward(…), index equations in a .txt "
                     "file, or a derivation in a .tex file")
    sub.add_argument("--function", help="the function's name, where the file has several")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--html", help="write the report as HTML, too")
    sub.add_argument("--name", metavar="SYMBOL=NAME", action="append", default=[],
                     help="of a .tex file: what a symbol means, X=x, N=B, y=onehot(t)")
    sub.add_argument("--layout", metavar="SETTING=VALUE", action="append", default=[],
                     help="of a .tex file: samples=columns, weights=transposed, "
                     "gradients=numerator, vectors=row, first=1; else recognised by the shapes")

    sub = verb("train", do_train, "train with the emitted kernels; MODEL may be a configuration in "
               "TOML, whose values the options change")
    sub.add_argument("--data", help="an .npz, .csv or .parquet file, a folder of .npy files, or "
                     "digits, iris, wine, breast_cancer, diabetes")
    for name, kind, text in (
            ("--epochs", int, "how often all rows are seen (50)"),
            ("--batch", int, "rows of a minibatch (64)"), ("--seed", int, "of everything random"),
            ("--test-share", float, "share of the rows that is only tested on (0.2)"),
            ("--validation-share", float, "share of the rows that chooses the best epoch (0)"),
            ("--patience", int, "epochs without a better one, after which the run ends"),
            ("--threads", int, "at most so many")):
        sub.add_argument(name, type=kind, help=text)
    sub.add_argument("--out", help="folder of the run (run, or the first free of run-2, …)")
    _training(sub, None, None)
    _force(sub)
    _ranks(sub)
    sub.add_argument("--shard", action="store_true", default=None, help="of several ranks, each "
                     "keeps its slice of the optimizer's state only")
    sub.add_argument("--compress", metavar="FORMAT", help="gradients travel between ranks as "
                     "float16 or bfloat16")

    sub = verb("resume", do_resume, "go on with a run that was stopped", model=False)
    sub.add_argument("run", help="the run's folder")
    sub.add_argument("--epochs", type=int, help="how many in all, instead of the run's own number")
    _ranks(sub)
    sub = verb("search", do_search, "choose settings of a run: a configuration with a section "
               "[search]", model=False)
    sub.add_argument("config", help="the configuration in TOML")
    sub.add_argument("--out", default="search", help="folder of the search, which goes on where "
                     "it was")
    sub.add_argument("--processes", type=int, default=1, help="how many work side by side")
    sub.add_argument("--ranks", dest="search_ranks", type=int, help="MPI ranks that run trials, "
                     "besides one that hands them out")
    sub.add_argument("--trials", type=int, help="how many in all")
    sub = verb("report", do_report, "what a run reached, in words and as a page", model=False)
    sub.add_argument("run", help="the run's folder")
    sub = verb("replay", do_replay, "take a step again that was not finite", model=False)
    sub.add_argument("file", help="the file not-finite-….safetensors of a run")
    sub.add_argument("--model", help="the network, where its file has moved")

    sub = verb("deploy", do_deploy, "write a trained network for inference: one module, or ONNX")
    sub.add_argument("weights", help="what training saved: .npz or .safetensors")
    sub.add_argument("-o", "--out", help="the module's file, with the weights written beside it; "
                     "or a name in .onnx")
    sub.add_argument("--output", action="append", metavar="NAME",
                     help="a tensor to compute (again for more; what the loss reads by default)")
    sub.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    _force(sub)

    sub = verb("explain", do_explain, "one gradient, step by step, in the terminal")
    sub.add_argument("name", help="the parameter, such as W1")
    sub = verb("diagnose", do_diagnose, "why gradients vanish or explode here, and what mends it")
    sub.add_argument("--data", help="as for train: norms are measured on rows of it by the "
                     "kernels, beside the forecast")
    sub.add_argument("--weights", help="what training saved: measured and forecast there, instead "
                     "of at the start")
    sub.add_argument("--seed", type=int, default=0, help="of the weights at the start")
    sub.add_argument("--jacobians", action="store_true", help="each layer's Jacobian, the bound "
                     "on its norm, and with --data or --weights its singular values")
    sub.add_argument("-o", "--out", help="a name in .svg: the norms as a picture")
    verb("doctor", do_doctor, "what is missing on this machine, and what brings it", model=False)
    return root


def _force(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--force", action="store_true",
                     help="overwrite a file that this tool did not write")


def _ranks(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(team=None)
    sub.add_argument("--ranks", type=int, help="processes that train one model over MPI, each on "
                     "its own rows of every minibatch")
    sub.add_argument("--max-restarts", type=int, default=0, help="how often a run whose rank died "
                     "goes on from its last checkpoint (0)")


def _training(sub: argparse.ArgumentParser, optimizer: str | None = "adam",
              dtype: str | None = "float32") -> None:
    sub.add_argument("--optimizer", default=optimizer, metavar="NAME",
                     help="sgd, momentum, adam, adamw, … (adam)")
    sub.add_argument("--lr", type=float, help="learning rate (the optimizer's own by default)")
    sub.add_argument("--dtype", default=dtype, choices=["float32", "float64"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    args = parser().parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        code, data, text = args.action(args)
    except ChainruleError as error:
        code = MISSING if isinstance(error, MissingError) else USAGE
        fail(args.json, error)
        return code
    except OSError as error:
        fail(args.json, DeclarationError(
            f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")))
        return USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    if getattr(args, "ranks", None) is not None:
        return code  # rank 0 has printed it
    show(args, data, text)
    return code


def show(args: argparse.Namespace, data: dict[str, Any], text: str) -> None:
    """Print what a verb found, as it was asked for."""
    try:
        print(json.dumps(data, indent=1, default=str) if args.json else text, flush=True)
    except BrokenPipeError:  # the reader (head, a pager) has seen enough
        sys.stdout = open(os.devnull, "w")


def fail(as_json: bool, error: ChainruleError) -> None:
    """Say an error, as it was asked for."""
    if as_json:
        print(json.dumps({"error": error.what, "expected": error.expected, "got": error.got,
                          "mend": error.mend, "where": error.where}, indent=1, default=str))
    else:
        print(f"error: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
