"""Networks as text: what is written reads back as the same network; errors point at the place."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import sympy
from sympy.codegen import cfunctions

import derive as dr
from derive.netparse import KNOWN, NetFileError
from derive.network import Handle, Network
from derive.program import Program
from tests.derive import test_layers

KNOWN_TO_SYMPY = sorted(KNOWN.keys() - {"uniform", "sqrt"}) + ["sqrt", "Abs", "sign", "Heaviside"]
SOFTMAX = '''\
network "softmax regression"
index b:B i:64 k:10
input x[b, i]
input t[b] int
parameter W[i, k]
z[b, k] = sum[i](W[i, k]*x[b, i])
L = sum[b](-z[b, t[b]] + logsumexp[k](z[b, k]))/B
loss L
'''


def softmax() -> Network:
    net = Network("softmax regression")
    b, i, k = dr.indices("b:B i:64 k:10")
    x, t = net.input("x", b, i), net.input("t", b, dtype=int)
    w = net.parameter("W", i, k)
    z = net.define("z", (b, k), dr.sum(x[b, i] * w[i, k], i))
    net.loss(dr.mean(dr.logsumexp(z[b, k], k) - z[b, t[b]], b))
    return net


def test_the_text_of_a_network():
    assert dr.write_network(softmax()) == SOFTMAX


def test_text_and_python_give_the_same_network():
    read, made = dr.parse_network(SOFTMAX).program(), softmax().program()
    assert read.equations == made.equations
    assert read.tensors == made.tensors
    assert (read.name, read.losses, read.hash) == (made.name, made.losses, made.hash)


def test_as_a_person_writes_it():
    net = dr.parse_network("""
        # an Elman network; the tensor h is read before its equation stands
        network "rnn"
        index t:T b:B i:3 j:4 k:4
        input x[t, b, i]
        parameter U[i, j] initial 0.1
        parameter V[k, j]
        parameter h0[b, j]
        recurrent h[t, b, j] first h0
        h[t, b, j] = tanh( sum[i](x[t, b, i]*U[i, j])
                         + sum[k](h[t-1, b, k]*V[k, j]) )   # over two lines
        loss L = mean[t, b, j](h[t, b, j]**2) + 1e-3*sum[i, j](U[i, j]**2)
    """)
    program = net.program()
    assert [g.recurrent for g in program.groups] == [True, False]
    assert str(program.tensors["U"].initial) == "1/10"
    assert dr.derive(program).gradients.keys() == {"U", "V", "h0"}


def closed(layer: Callable[[Handle], Handle], *shape: int | str) -> Callable[[], Network]:
    def make() -> Network:
        net = Network("n")
        y = layer(net.input("x", *shape))
        net.loss(dr.mean(y.tensor.access**2, *y.indices))
        return net

    return make


def two_losses() -> Network:
    net = Network("two losses")
    x = net.input("x", "B", 3)
    z = dr.dense(x, 2)
    b, j = z.indices
    net.loss(dr.mean(dr.softplus(z[b, j]), b, j), "L1", wrt=[net["W1"]])
    net.loss(dr.mean(dr.softplus(-z[b, j]), b, j), "L2", wrt=[net["W1"], net["c1"]])
    return net


NETWORKS = {
    "softmax": softmax,
    "two losses": two_losses,
    "transformer": closed(lambda x: dr.encoder_block(
        x, 2, 4, causal=True, rotate=True, rate=0.1, seed=x.network.random()), "B", "T", 4),
    "lstm": closed(lambda x: dr.bidirectional(
        dr.lstm, x, 3, lengths=x.network.input("n", "B", dtype=int)), "B", "T", 4),
    "gru": closed(lambda x: dr.gru(x, 3), "B", "T", 4),
    "images": closed(lambda x: dr.upsample(dr.max_pool(dr.conv2d(
        x, 4, 3, dr.relu, padding=1, stride=2), 2, padding=1), 2, "bilinear"), "B", 2, 8, 9),
    "transposed": closed(lambda x: dr.conv_transpose(dr.convolution(
        x, 4, 3, dr.gelu, groups=2, mode="reflect", padding=1), 3, 3, stride=2), "B", 2, 8),
    "norms": closed(lambda x: dr.batch_norm(dr.group_norm(x, 2)), "B", 4, 8),
    "positions": closed(lambda x: dr.sinusoidal_positions(dr.flatten(x)), "B", 4, 8, 2),
    "noise": closed(lambda x: dr.gaussian_noise(
        dr.leaky_relu(x), 0.2, x.network.random("s")), "B", 4),
}


OTHERS = {
    "attention and pools": closed(lambda x: dr.global_max_pool(dr.average_pool(dr.conv3d(
        x, 2, 2), 2)), "B", 2, 4, 4, 4),
    "depthwise": closed(lambda x: dr.global_average_pool(dr.depthwise(dr.pad(
        x, 1, "circular"), 3)), "B", 2, 4, 4),
    "conv1d": closed(lambda x: dr.unflatten(dr.flatten(dr.conv1d(x, 4, 3)), 2, 4), "B", 2, 4),
    "elman": closed(lambda x: dr.elman(x, 3), "B", "T", 4),
    "rotary": closed(dr.rotary, "B", "T", 4),
    "embedding, take": closed(lambda x: dr.take(dr.add(x, dr.embedding(
        x.network.input("n", "B", dtype=int), 5, 4)), x.network["n"]), "B", 4),
}


def test_every_layer_and_loss_is_among_them():
    tables = inspect.getsource(test_layers) + inspect.getsource(sys.modules[__name__])
    wanted = {n for room in ("derive.layers", "derive.losses") for n in dr._HOME[room]}
    assert wanted <= set(re.findall(r"dr\.(\w+)", tables)), wanted


@pytest.mark.parametrize("layer", test_layers.LAYERS)
def test_round_trip_of_layers(layer: str):
    round_trip(test_layers.closed(test_layers.LAYERS[layer]()).program())


@pytest.mark.parametrize("loss", test_layers.LOSSES)
def test_round_trip_of_losses(loss: str):
    z, net = test_layers.scores()
    net.loss(test_layers.LOSSES[loss](z, net))
    round_trip(net.program())


@pytest.mark.parametrize("network", [*NETWORKS, *OTHERS])
def test_round_trip(network: str):
    round_trip((NETWORKS | OTHERS)[network]().program())


def round_trip(program: Program) -> None:
    """Equal in everything that a program says; where it was declared is no part of that."""
    text = dr.write_network(program)
    again = dr.parse_network(text).program()
    assert again.equations == program.equations, text
    assert again.tensors == program.tensors, text
    assert (again.losses, again.subjects, again.updates, again.declared) == (
        program.losses, program.subjects, program.updates, program.declared)
    assert again.hash == program.hash
    assert dr.write_network(again) == text


PENALTY = r'''network "gradient \"penalty\""
function soft(x) = x/(absolute(x) + 1) derivative(y) = (-absolute(y) + 1)**2 kinks 0 symbol "\\s"
function twice(x) = soft(soft(x))
index b:B i:3
input x[b, i]
parameter w[i]
y[b] = soft(sum[i](w[i]*x[b, i]))
total = sum[b](y[b])
gradient _d_x = total by x
s = sum[b, i](twice(_d_x[b, i])**2)
gradient _d_x_2 = s by x
L = sum[b, i](_d_x[b, i]*_d_x_2[b, i])
loss L
'''


def penalty() -> Network:
    soft = dr.elementary("soft", lambda x: x / (1 + dr.abs(x)), lambda x, y: (1 - dr.abs(y)) ** 2,
                         kinks=[0], symbol=r"\s")
    twice = dr.elementary("twice", lambda x: soft(soft(x)))
    net = Network('gradient "penalty"')
    b, i = dr.indices("b:B i:3")
    x, w = net.input("x", b, i), net.parameter("w", i)
    y = net.define("y", (b,), soft(dr.sum(x[b, i] * w[i], i)))
    slope = net.gradient(net.define("total", (), dr.sum(y[b], b)), x)
    bend = net.gradient(net.define("s", (), dr.sum(twice(slope[b, i]) ** 2, b, i)), x)
    net.loss(dr.sum(slope[b, i] * bend[b, i], b, i))
    return net


def test_gradients_inside_a_network_and_functions_of_the_users_own():
    program = penalty().program()
    assert dr.write_network(program) == PENALTY
    again = dr.parse_network(PENALTY).program()
    assert (again.equations, again.hash) == (program.equations, program.hash)
    assert again.steps == program.steps
    assert dr.derive(again).equations == dr.derive(program).equations


def test_a_gradient_has_the_name_that_the_text_gives_it():
    named = PENALTY.replace("_d_x_2", "bend").replace("_d_x", "slope")
    assert dr.parse_network(named).program().hash == penalty().program().hash


def test_a_text_is_read_where_its_functions_are_not_known():
    """In a process of its own: what a text says does not depend on what was run before."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, derive as dr\n"
         "print(dr.parse_network(sys.stdin.read()).program().hash)"],
        input=PENALTY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == penalty().program().hash
    penalty()
    with pytest.raises(NetFileError, match="there is no function 'soft'"):
        dr.parse_network("input x\nloss L = soft(x)")


def test_what_was_changed_after_a_gradient_inside_is_refused():
    program = penalty().program()
    other = replace(program, equations=program.equations[:-1] + (
        replace(program.equations[-1], body=program.equations[-1].body * 2),))
    with pytest.raises(dr.DeclarationError, match="before it is changed"):
        dr.write_network(other)


@pytest.mark.parametrize("name", KNOWN_TO_SYMPY)
def test_every_function_and_constant_of_sympy_that_bodies_may_hold(name: str):
    net = Network("n")
    x = net.parameter("x", 3)
    (i,) = x.indices
    take = 2 if name == "atan2" else 1
    body = getattr(sympy, name, None) or getattr(cfunctions, name)
    net.loss(dr.sum(body(*(x[i], x[i] + 2)[:take]) * sympy.pi + sympy.E, i))
    assert dr.parse_network(dr.write_network(net)).program().hash == net.program().hash


def test_powers_of_numbers_by_indices():
    net = Network("n")
    x = net.parameter("x", 5)
    (i,) = x.indices
    net.loss(dr.sum(x[i] ** 2 / 2**i, i))
    text = dr.write_network(net)
    assert dr.parse_network(text).program().equations == net.program().equations


def test_a_file(tmp_path):
    path = tmp_path / "softmax.net"
    dr.write_network(softmax(), path)
    assert dr.read_network(path).program().hash == softmax().program().hash


def test_a_derived_program_is_refused():
    with pytest.raises(dr.DeclarationError, match="generated tensor"):
        dr.write_network(dr.derive(softmax()))


START = "index b:B i:3\ninput x[b, i]\n"
BAD = {
    "an unknown tensor": ("y[b, i] = x[b, i] + xx[b, i]", "'xx' is not declared", 21, "'x'"),
    "an unknown function": ("y[b, i] = tahn(x[b, i])", "no function 'tahn'", 11, "'tan"),
    "an unknown statement": ("imput y[b]", "unexpected 'y'", 7, "'input'"),
    "an index without a size": ("input y[q]", "size of index 'q' is not known", 9, "q:64"),
    "an index that is not bound": ("y[b] = x[b, i]", "neither free nor bound", 13, "sum[i]"),
    "an index that stands twice": ("y[b, b] = 1", "stands twice", 6, ""),
    "a wrong number of indices": ("y[b] = x[b]", "indexed with 1 indices", 8, "2: x[b, i]"),
    "a name that is used twice": ("input x[b]", "used twice", 1, "a new name"),
    "a line that ends early": ("y[b, i] = x[b, i] +", "end of the line", 20, "a number"),
    "a parenthesis that is not closed": ("y[b, i] = (x[b, i]", "end of the line", 19, "')'"),
    "a strange character": ("y[b, i] = x[b, i] $ 2", "unexpected character '$'", 19, ""),
    "a loss that is not scalar": ("loss L = x[b, 0]", "neither free nor bound", 12, ""),
    "a loss that is not defined": ("loss L", "no equation", 7, "loss L = "),
    "no condition": ("y[b, i] = x[b, i] if 3 else 0", "no condition", 22, "t >= 1"),
    "division by zero": ("y[b, i] = x[b, i]/0", "division by zero", 19, ""),
    "an enormous number": ("y[b, i] = 9**9**9", "exponent", 14, "64"),
    "code": ("y[b, i] = __import__('os')", "unexpected character", 22, ""),
    "an attribute": ("y[b, i] = x.__class__", "unexpected character '.'", 12, ""),
    "too deep": ("y[b, i] = " + "(" * 500 + "1" + ")" * 500, "nested too deeply", None, ""),
    "too many signs": ("y[b, i] = " + "-" * 5000 + "1", "nested too deeply", None, ""),
    "a recurrence without a first value": (
        "recurrent h[b, i]\nh[b, i] = h[b-1, i]", "no first value", 1, ""),
    "an argument too many for ours": ("y[b, i] = relu(x[b, i], 2)", "does not take 2", 11, ""),
    "a gradient of no scalar": ("y[b] = x[b, 0]\ngradient g = y by x", "not a scalar", 1, ""),
    "a gradient by what is not reached": (
        "input w\ns = sum[b, i](x[b, i])\ngradient g = s by w", "does not depend on 'w'", 1, ""),
    "a gradient by a tensor with a typing error": (
        "s = sum[b, i](x[b, i])\ngradient g = s by xx", "'xx' is not declared", 19, "'x'"),
    "a gradient of nothing": ("gradient g =", "end of the line", 13, "name of a tensor"),
    "a function that exists": ("function tanh(x) = x", "exists already", 10, "a new name"),
    "a function of two": ("function f(x, y) = x", "unexpected ','", 13, "')'"),
    "a function of a tensor": ("function f(z) = z + x[0, 0]", "other variables", 1, ""),
    "a function of an index": ("function f(z) = z + b", "neither free nor bound", 21, ""),
    "a function with a wrong derivative": (
        "function f2(z) = z**2 derivative(y) = 3*z", "derivative given for 'f2' is another", 1, ""),
    "a kink that is no number": ("function f3(z) = abs(z) kinks q", "not declared", 31, ""),
    "a symbol that is no text": ("function f4(z) = z symbol f", "unexpected 'f'", 27, "LaTeX"),
    "an escape that is none": ('function f5(z) = z symbol "\\sigma"', "cannot escape", 27, ""),
    "an argument too many": ("y[b, i] = tanh(x[b, i], 2)", "does not take 2", 11, ""),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_show_the_line_the_place_and_what_was_expected(case: str):
    text, what, column, expected = BAD[case]
    with pytest.raises(NetFileError) as caught:
        dr.parse_network(START + text, "bad.net").program()
    message = str(caught.value)
    assert what in message, message
    assert expected in message, message
    line = 2 + len(text.splitlines())
    assert f"bad.net, line {line}, column " in message
    if column is not None:
        assert f"line {line}, column {column}:" in message, message
        shown, caret = message.splitlines()[1:3]
        assert shown.strip() == text.splitlines()[-1]
        assert caret == " " * (4 + column - 1) + "^"


def test_a_text_that_is_too_long_is_refused_before_it_is_read():
    with pytest.raises(NetFileError, match="too long"):
        dr.parse_network("#" * 2_000_001)
