"""What documents say equations are for: found in the equations, and true."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import derive as dr
from derive.document import build_document
from derive.document.markdown import markdown_text
from derive.document.purposes import carried, normalised
from derive.document.softmax import example_scores
from derive.document.tree import Table
from derive.messages import languages
from derive.points import random_values


def derived(layer, *shape):
    net = dr.Network("one layer")
    y = layer(net.input("x", *shape))
    weights = net.constant("r", *(int(s) if s.is_Integer else str(s) for s in y.shape))
    net.loss(dr.mean(dr.sin(y[tuple(y.indices)] + weights[tuple(y.indices)]), *y.indices))
    return dr.derive(net)


def found(program):
    made = {eq.name: normalised(program, eq) for eq in program.forward.equations}
    return {name: one for name, one in made.items() if one is not None}


def gates(program):
    groups = {eq.name: g for g in program.groups if g.recurrent for eq in g.equations}
    made = {eq.name: carried(program, groups.get(eq.name), eq)
            for eq in program.forward.equations}
    return {name: one for name, one in made.items() if one is not None}


def text(program, **options):
    return markdown_text(build_document(program, **options))


# -- normalisation ------------------------------------------------------------------------------
NORMALISED = {
    "batch norm": (lambda x: dr.batch_norm(dr.dense(x, 3)), ("B", 5), "b", ("c1",)),
    "of channels": (lambda x: dr.batch_norm(dr.conv1d(x, 2, 3)), ("B", 3, 7), "bp", ("c1",)),
    "layer norm": (lambda x: dr.layer_norm(dr.dense(x, 3)), ("B", 5), "i", ()),
}


@pytest.mark.parametrize("name", NORMALISED)
def test_normalisation_is_found_with_what_it_is_taken_over(name):
    layer, shape, over, cancelled = NORMALISED[name]
    ((_, one),) = found(derived(layer, *shape)).items()
    assert len(one.over) == len(over) and one.cancelled == cancelled


@pytest.mark.parametrize("wrong", ["a variance around 0", "another mean", "half the root"])
def test_what_only_looks_like_it_is_not_called_so(wrong):
    net = dr.Network(wrong)
    b, j = dr.indices("b:B j:3")
    x = net.input("x", b, j)
    m = net.define("m", (j,), dr.mean(x[b, j], b) * (2 if wrong == "another mean" else 1))
    centre = 0 if wrong == "a variance around 0" else m[j]
    v = net.define("v", (j,), dr.mean((x[b, j] - centre) ** 2, b))
    root = dr.sqrt(v[j] + 1e-5)
    body = (x[b, j] - m[j]) / (root if wrong != "half the root" else root * (1 + v[j]))
    net.loss(dr.mean(net.define("n", (b, j), body)[b, j] ** 2, b, j))
    assert not found(net.program())


@pytest.mark.parametrize("name", NORMALISED)
def test_what_is_said_of_normalisation_is_so(name):
    """The adjoint of what is normalised adds up to 0, times the deviations too; what cancels has
    the gradient 0; weights twice as large get half the gradient."""
    layer, shape, _, _ = NORMALISED[name]
    program = derived(layer, *shape)
    ((_, one),) = found(program).items()
    values = random_values(program, 1, {"B": 4})
    values["W1" if "W1" in values else "K1"] *= 1e3  # so that the constant under the root is small
    out = program.evaluate(values)
    axes = tuple(program.tensors[one.of].indices.index(i) for i in one.over)
    x, adjoint = out[one.of], out[f"_d_{one.of}"]
    deviation = x - x.mean(axis=axes, keepdims=True)
    size = np.abs(adjoint).max()
    assert size > 0
    np.testing.assert_allclose(adjoint.sum(axis=axes), 0, atol=1e-12 * size * x.size)
    np.testing.assert_allclose((adjoint * deviation).sum(axis=axes), 0,
                               atol=1e-6 * size * np.abs(deviation).max() * x.size)
    for parameter in one.cancelled:
        gradient = out[program.gradients[parameter]]
        np.testing.assert_allclose(gradient, 0, atol=1e-12 * size * x.size)
    weight = "W1" if "W1" in values else "K1"
    twice = program.evaluate({**values, weight: 2 * values[weight],
                              **({"c1": 2 * values["c1"]} if "c1" in values else {})})
    grown, now = (v[program.gradients[weight]] for v in (twice, out))
    np.testing.assert_allclose(grown, now / 2, rtol=1e-4, atol=1e-9 * np.abs(now).max())


def test_a_batch_of_one_learns_nothing_and_the_document_says_so():
    layer, shape, _, _ = NORMALISED["batch norm"]
    program = derived(layer, *shape)
    out = program.evaluate(random_values(program, 1, {"B": 1}))
    assert not out["_d_z1"].any() and out["_d_n1"].any()
    assert "batch of one, each element is its own mean" in text(program)
    assert "elements are left for each mean" in text(derived(*NORMALISED["of channels"][:1],
                                                             *NORMALISED["of channels"][1]))
    within = text(derived(*NORMALISED["layer norm"][:1], *NORMALISED["layer norm"][1]))
    assert "within one sample" in within and "running" not in within


def test_of_a_second_normalisation_only_what_is_its_own_is_said():
    def both(second):
        return text(derived(lambda x: second(dr.dense(dr.batch_norm(dr.dense(x, 3)), 3)), "B", 5))

    alike = both(dr.batch_norm)
    assert alike.count("whatever the size of") == 1 and alike.count("is normalised like") == 1
    assert alike.count("during training, by") == 2 and alike.count("it may be left out") == 2
    assert both(dr.layer_norm).count("whatever the size of") == 2


def test_in_prediction_the_layer_is_linear():
    program = derived(lambda x: dr.batch_norm(dr.dense(x, 3), training=False), "B", 5)
    ((_, one),) = found(program).items()
    assert not one.over
    assert "fixed linear function of each element" in text(program)


# -- gates ----------------------------------------------------------------------------------------
def by_hand(x):
    """An LSTM as a textbook writes it, with other names and one matrix for each gate."""
    net, (b, t, i) = x.network, x.indices
    j, k = dr.indices("m:4 n:4")
    h, c = (net.declare(name, b, t, j, initial=0) for name in ("hidden", "cell"))

    def gate(name, function):
        u, v = net.parameter(f"U{name}", i, j), net.parameter(f"V{name}", k, j)
        return net.define(name, (b, t, j), function(
            dr.sum(x[b, t, i] * u[i, j], i) + dr.sum(h[b, t - 1, k] * v[k, j], k)))[b, t, j]

    new, write, keep, show = (gate(n, dr.tanh if n == "new" else dr.sigmoid)
                              for n in ("new", "write", "keep", "show"))
    net.define(c, (b, t, j), keep * c[b, t - 1, j] + write * new)
    return net.define(h, (b, t, j), show * dr.tanh(c[b, t, j]))


def names(one):
    return (str(one.keep).split("[")[0], [str(g).split("[")[0] for _, g in one.written],
            [str(g).split("[")[0] for *_, g in one.shown],
            [str(g).split("[")[0] for g in one.reset])


@pytest.mark.parametrize(("layer", "state", "roles"), [
    (lambda x: dr.lstm(x, 4), "s1", ("f1", ["i1"], ["o1"], [])),
    (lambda x: dr.lstm(x, 4, reverse=True), "s1", ("f1", ["i1"], ["o1"], [])),
    (by_hand, "cell", ("keep", ["write"], ["show"], [])),
    (lambda x: dr.gru(x, 4), "h1", ("z1", ["1 - z1"], [], ["r1"])),
])
def test_gates_are_found_by_what_they_do(layer, state, roles):
    program = derived(layer, "B", 5, 3)
    ((name, one),) = gates(program).items()
    assert (name, names(one)) == (state, roles)
    told = text(program)
    assert "how much of" in told  # in the notation
    assert f"{0.5 ** 4:.2g}" in told  # what five steps leave of an adjoint, gates half open
    needed = 0.5 ** (1 / 4)
    assert f"{needed:.3g}" in told and needed**4 == pytest.approx(0.5)


def test_a_recurrence_without_gates_has_no_remark_about_them():
    program = derived(lambda x: dr.elman(x, 4), "B", 5, 3)
    assert not gates(program) and "how much of" not in text(program)


def test_along_the_state_the_derivative_is_the_gate():
    """With the paths through gates cut, the adjoint of a state is the product of later gates."""
    net = dr.Network("carried")
    b, t, j = dr.indices("b:2 t:5 j:3")
    f, x = net.input("f", b, t, j), net.parameter("x", b, t, j)
    keep = net.define("keep", (b, t, j), dr.sigmoid(f[b, t, j]))
    s = net.declare("s", b, t, j, initial=0)
    net.define(s, (b, t, j), keep[b, t, j] * s[b, t - 1, j]
               + (1 - keep[b, t, j]) * dr.tanh(x[b, t, j]))
    net.loss(dr.sum(s[b, 4, j], b, j))
    program = dr.derive(net)
    assert list(gates(program)) == ["s"]
    values = random_values(program, 2)
    out = program.evaluate(values)
    later = np.cumprod(out["keep"][:, :0:-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(out["_d_s"][:, :-1], later, rtol=1e-12)


def test_random_truncation_is_right_on_average():
    """What the appendix says: with ξ = 1/π with probability π and else 0, the mean is right."""
    rng = np.random.default_rng(0)
    steps, keep = 4, 0.3
    d, jacobian = rng.normal(size=(steps, 3)), rng.normal(size=(steps, 3, 3))

    def backward(xi):
        h = d[-1]
        for t in range(steps - 2, -1, -1):
            h = d[t] + xi[t + 1] * jacobian[t + 1].T @ h
        return h

    mean = sum(
        np.prod([keep if on else 1 - keep for on in drawn])
        * backward([0, *(1 / keep if on else 0 for on in drawn)])
        for drawn in itertools.product([True, False], repeat=steps - 1))
    np.testing.assert_allclose(mean, backward([0] + [1] * (steps - 1)), rtol=1e-12)


# -- the loss, the backward pass ------------------------------------------------------------------
def classifier():
    net = dr.Network("classifier")
    x, t = net.input("x", "B", 5), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 4, dr.relu), 3), t))
    return dr.derive(net)


def test_a_softmax_is_worked_with_numbers_beyond_what_exp_can_take():
    section = next(s for s in build_document(classifier()).sections if s.anchor == "stability")
    table = next(b for b in section.blocks if isinstance(b, Table) and b.align == "r" * 6)
    shown = np.array([[float("".join(map(str, cell)).replace("−", "-")) for cell in row]
                      for row in table.rows])
    scores = example_scores(3)
    with np.errstate(over="ignore"):
        assert np.isinf(np.exp(scores)).all()
    powers = np.exp(scores - scores.max())
    p = powers / powers.sum()
    want = np.stack([range(3), scores, scores - scores.max(), powers, p,
                     p - np.array([0, 1, 0])], axis=1)
    np.testing.assert_allclose(shown, want, atol=5e-5)
    assert abs(shown[:, -1].sum()) < 2e-4


def test_remarks_on_the_backward_pass_are_made_once():
    told = text(classifier(), detail="full")
    assert told.count("So a unit is a switch") == 1
    assert told.count("weighted with its error") == 1
    assert told.count("negative log-likelihood") == 1


@pytest.mark.parametrize("lang", languages())
def test_no_remark_stands_in_a_summary_and_all_in_every_language(lang):
    program = derived(NORMALISED["batch norm"][0], "B", 5)
    whole = build_document(program, lang=lang)
    forward = next(s for s in whole.sections if s.anchor == "forward")
    assert sum(getattr(b, "quiet", False) for b in forward.blocks) == 6
    short = build_document(program, lang=lang, detail="summary")
    forward = next(s for s in short.sections if s.anchor == "forward")
    assert not any(getattr(b, "quiet", False) for b in forward.blocks)


@pytest.mark.parametrize("adjoint", ["delta", "partial"])
@pytest.mark.parametrize("lang", languages())
def test_fixed_texts_write_adjoints_as_the_reader_does(adjoint, lang):
    for layer in (lambda x: dr.lstm(x, 4), dr.batch_norm):
        program = derived(layer, "B", 5, 3)
        assert r"\bar" not in text(program, style=dr.Style(adjoint=adjoint), lang=lang)
        assert r"\bar" in text(program, lang=lang)


def test_the_scale_of_attention_is_explained_where_it_is_there():
    def scored(scale):
        net = dr.Network("scores")
        b, i, j, e = dr.indices("b:B i:5 j:5 e:8")
        q, k = net.input("q", b, i, e), net.input("k", b, j, e)
        w = net.parameter("w", i, j)
        s = net.define("s", (b, i, j), scale * dr.sum(q[b, i, e] * k[b, j, e], e))
        net.loss(dr.mean(dr.sin(s[b, i, j] * w[i, j]), b, i, j))
        return text(dr.derive(net))

    assert "one over the root of $`8`$" in scored(1 / dr.sqrt(8))
    assert "one over the root" not in scored(1 / dr.sqrt(7))


def test_a_recursion_is_begun_at_its_end():
    told = text(derived(lambda x: dr.elman(x, 4), "B", 5, 3))
    begins = told.index("The sweep begins where no step follows, at $`i`$ = 4")
    after = told.index("and at $`i`$ = 3 the step that was just worked")
    assert r"\bar{h}_{1;b,3,k} =" in told[after:after + 300]
    assert "V_" not in told[begins:after]  # nothing comes from behind the last step
    assert r"V_{1;" in told[after:after + 300]


def test_every_rule_around_a_place_is_named():
    net = dr.Network("several rules")
    w, x = net.parameter("w", 3), net.input("x", "B", 3)
    b, i = x.indices
    net.loss(dr.mean(dr.softplus(w[i]) * x[b, i] - x[b, i] * w[i] ** 2, b, i))
    told = text(dr.derive(net))
    line = next(k for k in told.splitlines() if "is read by equation" in k)
    for rule in ("product", "chain", "power"):
        assert f"[{rule} rule](#rule-{rule})" in line


def test_conventions_speak_of_what_is_there():
    net = dr.Network("noise")
    z = dr.dense(net.input("x", "B", 5), 3)
    s = dr.reparametrise(z, dr.dense(net["x"], 3), net.random())
    net.loss(dr.mean(s[tuple(s.indices)] ** 2, *s.indices) + dr.mean(
        z[tuple(z.indices)] ** 2, *z.indices))
    told = text(dr.derive(net))
    assert "onehot" not in told and "read like data" in told and "Box and Muller" in told
    assert "The loss is divided by $`3\\,B`$" in told
    assert "onehot" in text(classifier())


def test_an_optimizer_is_told_with_its_settings_and_what_it_keeps():
    told = text(classifier(), optimizer=dr.adam(lr=0.02))
    section = told[told.index("The optimizer's step"):]
    assert r"$`\mathrm{lr}`$ = 0.02" in section
    assert "0 before the first: $`m`$, $`v`$" in section
    assert "$`t`$ counts the steps" in section
    plain = text(classifier(), optimizer=dr.sgd(lr=0.5))
    section = plain[plain.index("The optimizer's step"):].split("\n## ")[0]
    assert "= 0.5" in section and "Kept" not in section and "counts" not in section


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_loss_with_smoothed_labels_is_not_called_a_log_likelihood(smoothing):
    net = dr.Network("smoothed")
    x, t = net.input("x", "B", 5), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(x, 3), t, smoothing=smoothing))
    told = text(dr.derive(net))
    assert ("negative log-likelihood" in told) == (smoothing == 0)
    assert ("It is negative at the label only" in told) == (smoothing == 0)
    assert "training should begin there" in told  # log 3 with and without


def test_one_class_alone_is_no_classifier():
    net = dr.Network("one class")
    x, t = net.input("x", "B", 5), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(x, 1), t))
    assert "negative log-likelihood" not in text(dr.derive(net))


def test_large_tensors_are_not_evaluated_for_a_remark(monkeypatch):
    net = dr.Network("large")
    x, t = net.input("x", "B", 512, 8), net.input("t", "B", 512, dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.layer_norm(x), 32000), t))
    monkeypatch.setattr("derive.document.expected.evaluate_equation", None)
    told = text(dr.derive(net))
    assert "negative log-likelihood" not in told and "within one sample" in told
