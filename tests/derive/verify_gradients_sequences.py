"""Right gradients in NumPy of recurrent networks, attention and embeddings."""

from __future__ import annotations

import numpy as np

import derive as dr
from tests.derive.verify_gradients import case, sigmoid


# -- recurrent networks -----------------------------------------------------------------------
def recurrent(kind: str) -> dr.Network:
    net = dr.Network(kind)
    x, t = net.input("x", "B", 3, 2), net.input("t", "B", 3, 2)
    net.loss(dr.squared_error(getattr(dr, kind)(x, 2), t))
    return net


@case(lambda: recurrent("elman"))
def through_time(x, t, U1, c1, V1):
    n, steps, _ = x.shape
    hs = [np.zeros((n, V1.shape[0]))]
    for s in range(steps):
        hs.append(np.tanh(x[:, s] @ U1 + hs[-1] @ V1 + c1))
    dU, dc, dV = np.zeros_like(U1), np.zeros_like(c1), np.zeros_like(V1)
    dnext = np.zeros_like(hs[0])
    for s in reversed(range(steps)):
        dh = (hs[s + 1] - t[:, s]) / (n * steps) + dnext
        dz = dh * (1 - hs[s + 1] ** 2)
        dU += x[:, s].T @ dz
        dV += hs[s].T @ dz
        dc += dz.sum(axis=0)
        dnext = dz @ V1.T
    return {"U1": dU, "c1": dc, "V1": dV}


@case(lambda: recurrent("lstm"))
def lstm(x, t, U1, c1, V1):
    n, steps, _ = x.shape
    h = np.zeros((n, 2))
    s = np.zeros((n, 2))
    kept = []
    for k in range(steps):
        z = np.einsum("bi,igj->bgj", x[:, k], U1) + np.einsum("bi,igj->bgj", h, V1) + c1
        i, f, o = sigmoid(z[:, 0]), sigmoid(z[:, 1]), sigmoid(z[:, 3])
        g = np.tanh(z[:, 2])
        new = f * s + i * g
        out = o * np.tanh(new)
        kept.append((h, s, i, f, g, o, new, out))
        h, s = out, new
    dU, dc, dV = np.zeros_like(U1), np.zeros_like(c1), np.zeros_like(V1)
    dh_next, ds_next = np.zeros((n, 2)), np.zeros((n, 2))
    for k in range(steps - 1, -1, -1):
        h, s, i, f, g, o, new, out = kept[k]
        dh = (out - t[:, k]) / n / steps + dh_next
        tanh_s = np.tanh(new)
        do = dh * tanh_s
        ds = dh * o * (1 - tanh_s**2) + ds_next
        di, df, dg = ds * g, ds * s, ds * i
        dz = np.stack([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)],
                      axis=1)
        dU += np.einsum("bi,bgj->igj", x[:, k], dz)
        dV += np.einsum("bi,bgj->igj", h, dz)
        dc += dz.sum(axis=0)
        dh_next = np.einsum("bgj,igj->bi", dz, V1)
        ds_next = ds * f
    return {"U1": dU, "c1": dc, "V1": dV}


@case(lambda: recurrent("gru"))
def gru(x, t, U1, c1, e1, V1):
    n, steps, _ = x.shape
    h = np.zeros((n, 2))
    kept = []
    for k in range(steps):
        a = np.einsum("bi,igj->bgj", x[:, k], U1) + c1
        b = np.einsum("bi,igj->bgj", h, V1) + e1
        r = sigmoid(a[:, 0] + b[:, 0])
        u = sigmoid(a[:, 1] + b[:, 1])
        m = np.tanh(a[:, 2] + r * b[:, 2])
        out = (1 - u) * m + u * h
        kept.append((h, b, r, u, m, out))
        h = out
    dU, dc, de, dV = (np.zeros_like(p) for p in (U1, c1, e1, V1))
    dnext = np.zeros((n, 2))
    for k in reversed(range(steps)):
        h, b, r, u, m, out = kept[k]
        dh = (out - t[:, k]) / (n * steps) + dnext
        dm = dh * (1 - u) * (1 - m**2)
        du = dh * (h - m) * u * (1 - u)
        dr_ = dm * b[:, 2] * r * (1 - r)
        da = np.stack([dr_, du, dm], axis=1)
        db = np.stack([dr_, du, dm * r], axis=1)
        dU += np.einsum("bi,bgj->igj", x[:, k], da)
        dV += np.einsum("bi,bgj->igj", h, db)
        dc += da.sum(axis=0)
        de += db.sum(axis=0)
        dnext = dh * u + np.einsum("bgj,igj->bi", db, V1)
    return {"U1": dU, "c1": dc, "e1": de, "V1": dV}


# -- attention --------------------------------------------------------------------------------
def attentive(causal: bool = False) -> dr.Network:
    net = dr.Network("attention")
    x, t = net.input("x", "B", 3, 4), net.input("t", "B", 3, 2)
    q, k, v = (dr.dense(x, size, bias=False) for size in (3, 3, 2))
    net.loss(dr.squared_error(dr.attention(q, k, v, causal=causal), t))
    return net


@case(attentive)
def attention(x, t, W1, W2, W3):
    q, k, v = x @ W1, x @ W2, x @ W3
    scale = 1 / np.sqrt(q.shape[-1])
    s = q @ k.transpose(0, 2, 1) * scale
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    do = (p @ v - t) / (t.shape[0] * t.shape[1])
    dv = p.transpose(0, 2, 1) @ do
    dp = do @ v.transpose(0, 2, 1)
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) * scale
    dq = ds @ k
    dk = ds.transpose(0, 2, 1) @ q
    return {"W1": np.einsum("bti,btj->ij", x, dq), "W2": np.einsum("bti,btj->ij", x, dk),
            "W3": np.einsum("bti,btj->ij", x, dv)}


@case(lambda: attentive(causal=True))
def causal_attention(x, t, W1, W2, W3):
    n, steps, d = x.shape
    q, k, v = x @ W1, x @ W2, x @ W3
    s = np.einsum("btd,bud->btu", q, k) / np.sqrt(3)
    e = np.exp(s) * np.tril(np.ones((steps, steps)))
    p = e / e.sum(axis=2)[:, :, None]
    do = (np.einsum("btu,bud->btd", p, v) - t) / (n * steps)
    dv = np.einsum("btu,btd->bud", p, do)
    dp = np.einsum("btd,bud->btu", do, v)
    ds = p * (dp - np.einsum("btu,btu->bt", dp, p)[:, :, None]) / np.sqrt(3)
    dq = np.einsum("btu,bud->btd", ds, k)
    dk = np.einsum("btu,btd->bud", ds, q)
    flat = x.reshape(n * steps, d)
    return {"W1": flat.T @ dq.reshape(n * steps, 3), "W2": flat.T @ dk.reshape(n * steps, 3),
            "W3": flat.T @ dv.reshape(n * steps, 2)}


def many_heads() -> dr.Network:
    net = dr.Network("multi-head attention")
    x, t = net.input("x", "B", 2, 4), net.input("t", "B", 2, 4)
    net.loss(dr.squared_error(dr.multi_head_attention(x, 2), t))
    return net


@case(many_heads)
def multi_head_attention(x, t, Wq1, cq1, Wk1, ck1, Wv1, cv1, Wo1, co1):
    q = np.einsum("bti,ihe->bhte", x, Wq1) + cq1[:, None, :]
    k = np.einsum("bti,ihe->bhte", x, Wk1) + ck1[:, None, :]
    v = np.einsum("bti,ihe->bhte", x, Wv1) + cv1[:, None, :]
    s = np.einsum("bhte,bhue->bhtu", q, k) / np.sqrt(2)
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    o = np.einsum("bhtu,bhue->bhte", p, v)
    y = np.einsum("bhte,hei->bti", o, Wo1) + co1
    dy = (y - t) / (x.shape[0] * x.shape[1])
    do = np.einsum("bti,hei->bhte", dy, Wo1)
    dp = np.einsum("bhte,bhue->bhtu", do, v)
    dv = np.einsum("bhtu,bhte->bhue", p, do)
    ds = p * (dp - np.sum(dp * p, axis=-1, keepdims=True)) / np.sqrt(2)
    dq = np.einsum("bhtu,bhue->bhte", ds, k)
    dk = np.einsum("bhtu,bhte->bhue", ds, q)
    return {"Wq1": np.einsum("bti,bhte->ihe", x, dq), "cq1": dq.sum(axis=(0, 2)),
            "Wk1": np.einsum("bti,bhte->ihe", x, dk), "ck1": dk.sum(axis=(0, 2)),
            "Wv1": np.einsum("bti,bhte->ihe", x, dv), "cv1": dv.sum(axis=(0, 2)),
            "Wo1": np.einsum("bhte,bti->hei", o, dy), "co1": dy.sum(axis=(0, 1))}


# -- embedding --------------------------------------------------------------------------------
def embedded() -> dr.Network:
    net = dr.Network("bag of words")
    x, t = net.input("x", "B", 3, dtype=int), net.input("t", "B", dtype=int)
    e = dr.embedding(x, 5, 2)
    b, s, d = e.indices
    m = net.define("m", (b, d), dr.mean(e[b, s, d], s))
    net.loss(dr.cross_entropy(dr.dense(m, 3), t))
    return net


@case(embedded)
def embedding(x, t, E1, W1, c1):
    n, length = x.shape
    m = E1[x].mean(axis=1)
    e = np.exp(m @ W1 + c1)
    p = e / e.sum(axis=1, keepdims=True)
    dz = (p - np.eye(3)[t]) / n
    dm = dz @ W1.T
    dE = np.zeros_like(E1)
    np.add.at(dE, x, np.repeat(dm[:, None, :] / length, length, axis=1))
    return {"E1": dE, "W1": m.T @ dz, "c1": dz.sum(axis=0)}
