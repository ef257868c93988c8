"""The command ``chainrule``: verbs, their options, exit codes.

Exit codes: 0 done, proved or agrees; 1 wrong; 2 usage or bad input; 3 undecided; 4 something is
missing on this machine; 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from codegen import verbs
from codegen.verbs import INTERRUPTED, MISSING, USAGE, Outcome
from derive import __version__
from derive.errors import ChainruleError, DeclarationError, MissingError


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    root = argparse.ArgumentParser(
        prog="chainrule",
        description="From a network's equations: the derivation, the kernels, a verdict on yours.",
        epilog="exit codes: 0 done or proved, 1 wrong, 2 bad input, 3 undecided, 4 missing here",
    )
    root.add_argument("--version", action="version", version=f"chainrule {__version__}")
    subs = root.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, action: Callable[[argparse.Namespace], Outcome], text: str,
             model: bool = True) -> argparse.ArgumentParser:
        sub = subs.add_parser(name, help=text, description=text)
        sub.set_defaults(action=action)
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        if model:
            sub.add_argument("model", help="a Python file that declares a network, or a .net text")
        return sub

    sub = verb("tour", verbs.do_tour, "the whole way on real digits: document, kernels, checks, "
               "training", model=False)
    sub.add_argument("--out", default="chainrule-tour", help="folder to write to")
    _force(sub)

    sub = verb("document", verbs.do_document, "write the derivation of every gradient")
    sub.add_argument("-o", "--out", help="a name in .html .tex .pdf .md or .ipynb")
    sub.add_argument("--lang", default="en", help="en or zh")
    sub.add_argument("--detail", default="standard", choices=["summary", "standard", "full"])
    sub.add_argument("--no-check", action="store_true", help="leave the numeric check out")
    sub.add_argument("--flow", action="store_true", help="a section on how signals and gradients "
                     "flow: forecast, diagnosis, remedies, Jacobians")
    _force(sub)

    sub = verb("emit", verbs.do_emit, "write a standalone module that trains the network")
    sub.add_argument("-o", "--out", help="the module's file (kernels.py)")
    sub.add_argument("--target", default="cpu", help="cpu or cuda")
    sub.add_argument("--products", default="own", help="own, or vendor: matrix products of cuBLAS "
                     "through cupy (--target cuda)")
    sub.add_argument("--show", metavar="STAGE",
                     help="print a stage: simplified, packed, schedule, memory, loops, cost (of "
                          "--target cuda) or text")
    sub.add_argument("--tune", action="store_true",
                     help="measure every way of each convolution here, and take the fastest")
    sub.add_argument("--recompute", default="auto", metavar="BYTES",
                     help="bytes that training may take, with 64 of each run-time size on two "
                          "threads: above, intermediates are computed again (auto: 8 GiB; none)")
    _training(sub, dtypes=("float32", "float64", "float16", "bfloat16"))
    _force(sub)

    sub = verb("verify", verbs.do_verify, "a verdict on a gradient that you derived by hand")
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

    sub = verb("train", verbs.do_train, "train with the emitted kernels; MODEL may be a "
               "configuration in TOML, whose values the options change")
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
    _training(sub, None, None, ("float32", "float64", "float16", "bfloat16"))
    _device(sub)
    sub.add_argument("--products", help="own, or vendor: on a GPU, matrix products of cuBLAS "
                     "through cupy (own)")
    _force(sub)
    _ranks(sub)
    sub.add_argument("--shard", action="store_true", default=None, help="of several ranks, each "
                     "keeps its slice of the optimizer's state only")
    sub.add_argument("--compress", metavar="FORMAT", help="gradients travel between ranks as "
                     "float16 or bfloat16")

    sub = verb("resume", verbs.do_resume, "go on with a run that was stopped", model=False)
    sub.add_argument("run", help="the run's folder")
    sub.add_argument("--epochs", type=int, help="how many in all, instead of the run's own number")
    _device(sub)
    _ranks(sub)
    sub = verb("search", verbs.do_search, "choose settings of a run: a configuration with a "
               "section [search]", model=False)
    sub.add_argument("config", help="the configuration in TOML")
    sub.add_argument("--out", default="search", help="folder of the search, which goes on where "
                     "it was")
    sub.add_argument("--processes", type=int, default=1, help="how many work side by side")
    sub.add_argument("--ranks", dest="search_ranks", type=int, help="MPI ranks that run trials, "
                     "besides one that hands them out")
    sub.add_argument("--trials", type=int, help="how many in all")
    sub = verb("report", verbs.do_report, "what a run reached, in words and as a page", model=False)
    sub.add_argument("run", help="the run's folder")
    sub = verb("replay", verbs.do_replay, "take a step again that was not finite", model=False)
    sub.add_argument("file", help="the file not-finite-….safetensors of a run")
    sub.add_argument("--model", help="the network, where its file has moved")

    sub = verb("deploy", verbs.do_deploy,
               "write a trained network for inference: one module, or ONNX")
    sub.add_argument("weights", help="what training saved: .npz or .safetensors")
    sub.add_argument("-o", "--out", help="the module's file, with the weights written beside it; "
                     "or a name in .onnx")
    sub.add_argument("--output", action="append", metavar="NAME",
                     help="a tensor to compute (again for more; what the loss reads by default)")
    sub.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    _force(sub)

    sub = verb("explain", verbs.do_explain, "one gradient, step by step, in the terminal")
    sub.add_argument("name", help="the parameter, such as W1")
    sub = verb("diagnose", verbs.do_diagnose,
               "why gradients vanish or explode here, and what mends it")
    sub.add_argument("--data", help="as for train: norms are measured on rows of it by the "
                     "kernels, beside the forecast")
    sub.add_argument("--weights", help="what training saved: measured and forecast there, instead "
                     "of at the start")
    sub.add_argument("--seed", type=int, default=0, help="of the weights at the start")
    sub.add_argument("--jacobians", action="store_true", help="each layer's Jacobian, the bound "
                     "on its norm, and with --data or --weights its singular values")
    sub.add_argument("-o", "--out", help="a name in .svg: the norms as a picture")
    verb("doctor", verbs.do_doctor, "what is missing on this machine, and what brings it",
         model=False)
    return root


def _force(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--force", action="store_true",
                     help="overwrite a file that this tool did not write")


def _device(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--device", help="cpu, cuda (a GPU, or an error that says what is missing), "
                     "or auto: a GPU where there is one (cpu)")


def _ranks(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(team=None)
    sub.add_argument("--ranks", type=int, help="processes that train one model over MPI, each on "
                     "its own rows of every minibatch")
    sub.add_argument("--max-restarts", type=int, default=0, help="how often a run whose rank died "
                     "goes on from its last checkpoint (0)")


def _training(sub: argparse.ArgumentParser, optimizer: str | None = "adam",
              dtype: str | None = "float32", dtypes: Sequence[str] = ("float32", "float64")
              ) -> None:
    sub.add_argument("--optimizer", default=optimizer, metavar="NAME",
                     help="sgd, momentum, adam, adamw, … (adam)")
    sub.add_argument("--lr", type=float, help="learning rate (the optimizer's own by default)")
    sub.add_argument("--dtype", default=dtype, choices=dtypes)


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
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fail(args.json, DeclarationError(
            f"{error.strerror or error}: {error.filename or ''}".rstrip(": "),
            mend="make room: what was written before is whole" if full else None))
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
