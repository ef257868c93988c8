"""Adapters as equations: their gradients on three legs, what is trained, saving, merging; freezing
and what it saves."""

from __future__ import annotations

import re

import numpy as np
import pytest
import sympy

import derive as dr
from derive.adapters import biases
from derive.adapters.prefixes import attentions
from derive.network import Handle, Network
from derive.points import default_sizes, random_values
from derive.reference import evaluate
from tests.codegen.test_kernels import agrees
from tests.derive.test_conv import closed
from tests.judge import disagreement


def data(*shape: int | str) -> Handle:
    return Network("n").input("x", *shape)


def labelled(rows: int = 5) -> Network:
    """Embeddings, an attention block with masks, a classifier."""
    net = dr.Network("encoder")
    words, length = net.input("words", "B", rows, dtype=int), net.input("n", "B", dtype=int)
    x = dr.encoder_block(dr.embedding(words, 7, 4), 2, 6, order="post", lengths=length)
    b, t, d = x.indices
    mean = net.define("mean", (b, d), dr.mean(x[b, t, d], t))
    net.loss(dr.cross_entropy(dr.dense(mean, 3), net.input("label", "B", dtype=int)))
    return net


def tied() -> Handle:
    """A table that is looked up, and is the last layer's weight, transposed."""
    net = dr.Network("tied")
    e = dr.embedding(net.input("words", "B", dtype=int), 5, 3)
    return dr.dense(dr.dense(e, 3, dr.tanh), weight=net["E1"])


def two_uses() -> Handle:
    """One weight in two equations and twice in one."""
    net = dr.Network("two uses")
    b, i, j, k = dr.indices("b:B i:3 j:3 k:3")
    x, w = net.input("x", b, i), net.parameter("W", i, j)
    h = net.define("h", (b, j), dr.tanh(dr.sum(x[b, i] * w[i, j], i)))
    body = dr.sum(h[b, j] * w[j, k], j) + dr.sum(x[b, j] * w[j, k], j) * h[b, k]
    return net.define("y", (b, k), body)


LORA = {
    "dense": (lambda: dr.dense(dr.dense(data("B", 5), 3, dr.tanh), 2), ["W*"]),
    "dense over three dims": (lambda: dr.dense(data("B", 2, 3, 2), 4, dims=3), ["W1"]),
    "conv1d": (lambda: dr.conv1d(data("B", 2, 7), 3, 3, stride=2, padding=1), ["K1"]),
    "conv2d": (lambda: dr.conv2d(data("B", 2, 5, 4), 3, 2, dilation=2), ["K1"]),
    "depthwise": (lambda: dr.depthwise(data("B", 2, 6), 3), ["K1"]),
    "transposed": (lambda: dr.conv_transpose(data("B", 2, 4), 3, 3, stride=2), ["K1"]),
    "embedding": (lambda: dr.embedding(Network("n").input("words", "B", dtype=int), 5, 3),
                  ["E1"]),
    "tied": (tied, ["E1", "W1"]),
    "two uses": (two_uses, ["W"]),
    "heads": (lambda: dr.multi_head_attention(data("B", "T", 4), 2), ["Wq1", "Wv1", "Wo1"]),
    "gru": (lambda: dr.gru(data("B", 3, 2), 3), ["U1", "V1"]),
    "lstm": (lambda: dr.lstm(data("B", 3, 2), 2), ["V*"]),
    "elman, both ways": (lambda: dr.bidirectional(dr.elman, data("B", 3, 2), 2), ["U*", "V*"]),
}
OTHERS = {
    "ia3": dr.ia3("k1", "v1", "h1"),
    "ia3 behind a norm": dr.ia3("n1", "y2"),
    "bitfit": dr.bitfit("c[qvo]*", "c[0-9]"),  # the keys' bias has gradient zero, by symmetry
    "bottleneck": dr.bottleneck("y1", "z2", size=3, activation="gelu"),
    "prefix": dr.prefix(length=2),
}


def point(program, seed=0):
    """Random values of adapters too, which start where they do nothing."""
    return random_values(program, seed, default_sizes(program))


def loss(program, values):
    return float(evaluate(program, values, list(program.losses), default_sizes(program))[
        program.losses[0]])


def legs(adapted, tmp_path):
    """The derived gradient against numeric differentiation, and against the emitted kernel."""
    program, derived = adapted.program(), dr.derive(adapted)
    assert tuple(derived.gradients) == adapted.trained
    assert disagreement(program, derived, seed=1) is None
    agrees(program, tmp_path, 1e-9, dtype="float64")


@pytest.mark.parametrize("name", LORA)
def test_lora_on_three_legs_and_merged(name, tmp_path):
    layer, weights = LORA[name]
    net = closed(layer())
    adapted = dr.adapt(net, dr.lora(*weights, rank=2, alpha=3))
    assert all(n[-2:] in ("_A", "_B") for n in adapted.trained)
    legs(adapted, tmp_path)
    values = point(adapted.program())
    here = loss(adapted.program(), values)
    assert loss(net.program(), {**values, **adapted.merged(values)}) == pytest.approx(here, 1e-12)
    assert abs(loss(net.program(), values) - here) > 1e-6 * abs(here)


@pytest.mark.parametrize("name", OTHERS)
def test_other_adapters_on_three_legs(name, tmp_path):
    legs(dr.adapt(labelled(), OTHERS[name], train="W3"), tmp_path)


@pytest.mark.parametrize("adapter", [dr.lora("W*", "E1", rank=2), *OTHERS.values()], ids=str)
def test_at_the_start_nothing_changes_but_by_a_prefix(adapter):
    net = labelled()
    adapted = dr.adapt(net, adapter)
    values = point(net.program(), 3)
    rng = np.random.default_rng(0)
    for tensor in adapted.program().parameters:
        start = {"zeros": 0.0, "ones": 1.0}.get(str(tensor.initial))
        if tensor.name not in values:
            shape = [int(s) for s in tensor.shape]
            values[tensor.name] = rng.normal(size=shape) if start is None else np.full(shape, start)
    same = loss(adapted.program(), values) == pytest.approx(loss(net.program(), values), rel=1e-13)
    assert same is not adapter.__class__.__name__.startswith("Prefix")


def test_lora_may_start_at_random():
    adapted = dr.adapt(closed(dr.dense(data("B", 4), 3)), dr.lora("W1", rank=2, initial="normal"))
    starts = {t.name: t.initial for t in adapted.program().parameters}
    assert starts["W1_A"] == sympy.Rational(1, 2) and starts["W1_B"] == 1 / sympy.sqrt(2)


def test_the_equations_of_lora():
    net = dr.Network("n")
    b, i, j = dr.indices("b:B i:5 j:3")
    x, w, c = net.input("x", b, i), net.parameter("W", i, j), net.parameter("c", j)
    net.define("y", (b, j), dr.tanh(dr.sum(x[b, i] * w[i, j], i) + c[j]))
    adapted = dr.adapt(closed(net["y"]), dr.lora("W", rank=2, alpha=4)).program()
    assert str(adapted["W_x"]) == "W_x[b, r] = sum over i of ( x[b, i] * W_A[i, r] )"
    assert str(adapted["y"]) == (
        "y[b, j] = tanh(sum over i of ( x[b, i] * W[i, j] ) "
        "+ 2 * sum over r of ( W_x[b, r] * W_B[r, j] ) + c[j])")


# -- (IA)³, BitFit, prefix ------------------------------------------------------------------------
@pytest.mark.parametrize("tensors", [("k1", "v1"), ("h1",), ("n1",), ("z1", "q1"), ("k1", "h1")])
def test_a_scale_is_merged_into_what_makes_or_reads_the_tensor(tensors):
    net = labelled()
    adapted = dr.adapt(net, dr.ia3(*tensors))
    values = point(adapted.program())
    merged = adapted.merged(values)
    assert loss(net.program(), {**values, **merged}) == pytest.approx(
        loss(adapted.program(), values), rel=1e-12)


def test_adapters_on_adapters_are_merged_in_reverse():
    net = labelled()
    adapted = dr.adapt(net, dr.lora("Wv1", "W2", rank=2), dr.ia3("v1", "h1"), dr.bitfit("c*"))
    values = point(adapted.program())
    merged = adapted.merged(values)
    assert set(merged) == {t.name for t in net.program().parameters}
    assert loss(net.program(), {**values, **merged}) == pytest.approx(
        loss(adapted.program(), values), rel=1e-12)


def test_biases_are_what_is_only_added_beside_a_parameter():
    net = labelled()
    assert biases(net.program()) == ("cq1", "ck1", "cv1", "co1", "c1", "c2", "c3", "c4", "c5")
    assert biases(closed(dr.learned_positions(data("B", 3, 4))).program()) == ()
    # a GRU adds its second bias to a product with the state
    assert biases(closed(dr.gru(data("B", 3, 2), 2)).program()) == ("c1", "e1")


def test_attentions_are_found_by_their_equations():
    found = attentions(labelled().program())
    assert [(a.weights, a.keys, a.values) for a in found] == [("p1", ("k1", 2), ("v1", 2))]
    net = dr.Network("classifier")  # a softmax that is no attention
    p = dr.softmax(dr.dense(net.input("x", "B", 4), 3))
    assert attentions(closed(p).program()) == []


def test_a_prefix_is_attended_to_by_every_position_and_masks_stay():
    net = labelled()
    adapted = dr.adapt(net, dr.prefix(length=2)).program()
    values = {**point(adapted), "n": np.array([1, 5, 3])}
    sizes = default_sizes(adapted)
    p = evaluate(adapted, values, ["p1"], sizes)["p1"]
    assert p.shape[-1] == 7
    assert (p[..., :2] > 0).all() and (p[0, ..., 3:] == 0).all() and (p[2, ..., 4] > 0).all()
    np.testing.assert_allclose(p.sum(-1), 1)


def test_a_prefix_before_a_causal_mask():
    net = closed(dr.multi_head_attention(data("B", 3, 4), 2, causal=True))
    adapted = dr.adapt(net, dr.prefix(length=2)).program()
    p = evaluate(adapted, point(adapted), ["p1"], default_sizes(adapted))["p1"]
    assert ((p > 0) == np.tri(3, 5, 2, dtype=bool)).all()


def test_each_of_several_losses_keeps_to_its_own_adapters():
    """A generator and a discriminator: the second's loss reads the first's output."""
    net = dr.Network("gan")
    made = dr.dense(net.input("z", "B", 2), 3, dr.tanh)
    score = dr.dense(made, 2, dr.tanh)
    b, j = score.indices
    net.loss(dr.mean(score[b, j] ** 2, b, j), "LD", wrt=[net["W2"], net["c2"]])
    net.loss(dr.mean((1 - score[b, j]) ** 2, b, j), "LG", wrt=[net["W1"], net["c1"]])
    adapted = dr.adapt(net, dr.lora("W1", "W2", rank=1), dr.ia3("h1", "z2"))
    assert adapted.program().subjects == {
        "LD": ("W2_A", "W2_B", "l_z2"), "LG": ("W1_A", "W1_B", "l_h1")}
    for loss in ("LD", "LG"):
        derived = dr.derive(adapted, of=loss)
        assert tuple(derived.gradients) == adapted.program().subjects[loss]
        assert disagreement(adapted.program(), derived, seed=1, of=loss) is None


def test_a_penalty_on_a_weight_that_gets_frozen_is_refused():
    net = dr.Network("n")
    z = dr.dense(net.input("x", "B", 3), 2)
    b, j = z.indices
    net.loss(dr.mean(z[b, j] ** 2, b, j) + dr.l2(net["W1"]))
    with pytest.raises(dr.DeclarationError, match="if this is a penalty on the weight"):
        dr.adapt(net, dr.lora("W1", rank=1))


# -- saving ---------------------------------------------------------------------------------------
def test_adapters_are_saved_apart_and_come_back(tmp_path):
    adapted = dr.adapt(labelled(), dr.lora("Wq*", rank=2), train=["W3", "c5"])
    values = point(adapted.program())
    path = adapted.save(tmp_path / "lora.safetensors", values)
    loaded = adapted.load(path)
    assert set(loaded) == {"Wq1_A", "Wq1_B", "W3", "c5"}
    assert all((loaded[n] == values[n]).all() for n in loaded)
    other = dr.adapt(labelled(4), dr.lora("Wq*", rank=2), train=["W3", "c5"])
    with pytest.raises(dr.DataError, match="another network"):
        other.load(path)
    fewer = dr.adapt(labelled(), dr.lora("Wq*", rank=2), train="W3")
    with pytest.raises(dr.DataError, match="'c5', which is not trained here"):
        fewer.load(path)
    wider = dr.adapt(labelled(), dr.lora("Wq*", rank=3), train=["W3", "c5"])
    with pytest.raises(dr.DataError, match=r"expected: shape \(4, 3\)"):
        wider.load(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(dr.DataError, match="no readable"):
        adapted.load(path)


@pytest.mark.parametrize("adapters, says", [
    ([], "adapt needs adapters"),
    ([dr.lora("Wz*")], "'Wz*' is not declared"),
    ([dr.lora("c1")], "'c1' has no low-rank update"),
    ([dr.ia3("label")], "'label' is not declared"),
    ([dr.ia3("L")], "nothing reads 'L'"),
    ([dr.bottleneck("z9")], "'z9' is not declared"),
    ([dr.prefix("p2")], "'p2' is not declared"),
], ids=str)
def test_what_cannot_be_adapted_is_named(adapters, says):
    with pytest.raises(dr.DeclarationError, match=re.escape(says)):
        dr.adapt(labelled(), *adapters)


@pytest.mark.parametrize("make", [
    lambda: dr.lora("W", rank=0), lambda: dr.lora("W", initial="ones"), dr.lora,
    lambda: dr.lora("W", alpha=float("nan")), lambda: dr.lora("W", alpha="2"),
    lambda: dr.prefix(length=0), lambda: dr.bottleneck("y", activation="softmax"),
    lambda: dr.bottleneck("y", size=-1), dr.ia3,
])
def test_settings_are_checked(make):
    with pytest.raises(dr.DeclarationError):
        make()


def test_what_cannot_be_merged_says_why():
    adapted = dr.adapt(labelled(), dr.bottleneck("y1"))
    with pytest.raises(dr.DeclarationError, match="not linear"):
        adapted.merged(point(adapted.program()))
    with pytest.raises(dr.DataError, match="no value is given"):
        dr.adapt(labelled(), dr.lora("Wq1")).merged({})


def test_a_derived_program_is_not_adapted():
    with pytest.raises(dr.DerivationError, match="derived already"):
        dr.adapt(dr.derive(labelled()), dr.lora("W1"))
    with pytest.raises(dr.DerivationError, match="no loss"):
        dr.adapt(dr.dense(data("B", 3), 2).network, dr.lora("W1"))


# -- freezing -------------------------------------------------------------------------------------
def mlp() -> Network:
    net = dr.Network("mlp")
    x = dr.dense(dr.dense(net.input("x", "B", 7), 5, dr.tanh), 3, dr.tanh)
    net.loss(dr.cross_entropy(dr.dense(x, 2), net.input("t", "B", dtype=int)))
    return net


@pytest.mark.parametrize("frozen, gone", [
    (["W1", "c1"], {"_d_W1", "_d_c1", "_d_z1", "_d_h1"}),
    (["W1"], {"_d_W1"}),  # its bias still needs the way back
    (["W2", "c2"], {"_d_W2", "_d_c2"}),
    (["W[12]", "c[12]"], {"_d_W1", "_d_c1", "_d_z1", "_d_h1", "_d_W2", "_d_c2", "_d_z2", "_d_h2"}),
], ids=lambda x: " ".join(sorted(x)))
def test_exactly_what_serves_frozen_parameters_alone_vanishes(frozen, gone):
    full, pruned = dr.derive(mlp()), dr.derive(mlp(), freeze=frozen)
    assert set(full.defined) - set(pruned.defined) == gone
    values = point(full)
    sizes = default_sizes(full)
    for name, gradient in pruned.gradients.items():
        want = evaluate(full, values, [full.gradients[name]], sizes)[full.gradients[name]]
        assert (evaluate(pruned, values, [gradient], sizes)[gradient] == want).all()
    assert set(dr.savings(pruned).vanished) == gone


def test_what_freezing_saves_is_counted():
    saved = dr.savings(dr.derive(mlp(), freeze=["W[12]", "c[12]"]))
    batch = sympy.Symbol("B", integer=True, positive=True)
    assert saved.frozen == ("W1", "c1", "W2", "c2")
    assert saved.now.gradients == 4 * (3 * 2 + 2) and saved.full.gradients == 4 * (
        7 * 5 + 5 + 5 * 3 + 3 + 3 * 2 + 2)
    # kept: the last layer's input and logits, and their logsumexp; else both hidden layers too
    assert saved.now.kept == 4 * batch * (3 + 2 + 1)
    assert saved.full.kept == saved.now.kept + 4 * batch * 5
    assert saved.now.adjoints == 4 * batch * 2 * 2  # the softmax and the adjoint of the logits


def test_all_that_a_tensor_depends_on_is_frozen():
    program = dr.freeze(mlp(), before="h2")
    assert tuple(dr.derive(program).gradients) == ("W3", "c3")
    assert tuple(dr.derive(dr.freeze(mlp(), "c*")).gradients) == ("W1", "W2", "W3")


def test_the_buffers_of_a_frozen_network_are_smaller(tmp_path):
    import codegen
    from tests.codegen.support import interpreted, sample

    sizes = {}
    with interpreted():
        for name, frozen in (("full", ()), ("frozen", ["W[12]", "c[12]"])):
            model = codegen.compile(dr.derive(mlp(), freeze=frozen), optimizer=dr.adam(),
                                    parallel=False, directory=tmp_path).initialize(1)
            before = {n: v.copy() for n, v in model.parameters.items()}
            model.step(**sample(model.program))
            sizes[name] = (model._run.d.size, *(m.size for m in model.moments.values()),
                           model._run.w.size)
            moved = {n for n, v in model.parameters.items() if (v != before[n]).any()}
            assert moved == set(model.program.gradients)
    assert all(small < large for small, large in zip(sizes["frozen"], sizes["full"]))
    assert sizes["frozen"][:3] == (32, 32, 32)  # 6 + 2 numbers, each aligned to a cache line


@pytest.mark.parametrize("call, says", [
    (lambda: dr.derive(mlp(), freeze="K*"), "'K*' is not declared"),
    (lambda: dr.derive(mlp(), freeze="*"), "every parameter is frozen"),
    (lambda: dr.freeze(mlp(), "*"), "every parameter is frozen"),
    (lambda: dr.freeze(dr.derive(mlp()), "W1"), "derived already"),
    (lambda: dr.savings(mlp().program()), "no gradients"),
])
def test_what_cannot_be_frozen_is_named(call, says):
    with pytest.raises(dr.ChainruleError, match=re.escape(says)):
        call()


@pytest.mark.parametrize("lang, heading", [("en", "What is frozen"), ("zh", "冻结了什么")])
def test_the_document_shows_what_vanished_and_what_it_saved(lang, heading, tmp_path):
    derived = dr.derive(mlp(), freeze=["W[12]", "c[12]"])
    text = derived.document(tmp_path / "d.md", lang=lang).read_text(encoding="utf-8")
    section = text[text.index(heading):].split("\n## ")[0]
    rows = [re.split(r"\s*\|\s*", line)[2:4] for line in section.splitlines() if "|" in line][2:]
    saved = dr.savings(derived)
    shown = [[cell.replace("\u202f", "").replace("·", "*") for cell in row] for row in rows]
    for (now, full), part in zip(shown, ("equations", "operations", "functions", "adjoints",
                                         "kept", "gradients")):
        for cell, load in ((now, saved.now), (full, saved.full)):
            assert cell.replace("*B", "").strip() == str(getattr(load, part)).replace("*B", "")
    whole = dr.derive(mlp()).document(tmp_path / "w.md", lang=lang).read_text(encoding="utf-8")
    assert heading not in whole
