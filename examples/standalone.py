"""The emitted module needs numpy, scipy and numba only: no trace of this project at run time.

Emits `out/kernels.py`, then runs it in a second virtual environment that has just those three
(or, with --here, in this one with the project kept off the path).

python examples/standalone.py
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import codegen
import derive as dr

net = dr.Network("standalone")
x, t = net.input("x", "B", 20), net.input("t", "B", dtype=int)
net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 16, dr.tanh), 4), t))


def main(out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    module = out / "kernels.py"
    codegen.emit(dr.derive(net), module, optimizer=dr.adam(), force=True)
    if "--here" in sys.argv:
        python = [sys.executable, "-I"]
        run = subprocess.run([*python, str(module), "--self-test"], check=False)
    else:
        with tempfile.TemporaryDirectory() as folder:
            venv.create(folder, with_pip=True)
            python = [str(Path(folder) / "bin" / "python")]
            install = [*python, "-m", "pip", "install", "-q", "numpy", "scipy", "numba"]
            subprocess.run(install, check=True)
            listed = subprocess.run([*python, "-m", "pip", "list", "--format=freeze"], check=True,
                                    capture_output=True, text=True).stdout
            assert "sympy" not in listed and "chainrule" not in listed, listed
            run = subprocess.run([*python, str(module), "--self-test"], check=False)
    assert run.returncode == 0


if __name__ == "__main__":
    main()
