r"""Derivations as people write them: a network, its text, and what becomes of it.

Each is (network, text, options, verdict, line): the line is that of the first mistake.
"""

from __future__ import annotations

from typing import Any

from tests.derive import tex_networks as nets

ROWS = r"""
\begin{align}
\delta^{(2)} &= \frac{1}{B}(p - t) \\
\frac{\partial L}{\partial W^{(2)}} &= h^\top \delta^{(2)}, &
\frac{\partial L}{\partial b^{(2)}} &= \mathbf{1}^\top \delta^{(2)} \\
\delta^{(1)} &= \left(\delta^{(2)} W^{(2)\top}\right) \odot \sigma'(z^{(1)}) \\
\frac{\partial L}{\partial W^{(1)}} &= x^\top \delta^{(1)}, \quad
\frac{\partial L}{\partial b^{(1)}} = \mathbf{1}^\top \delta^{(1)}.
\end{align}
"""
COLUMNS = r"""
\[ \Delta_2 = \tfrac1B (P - T), \qquad \nabla_{W_2} L = \Delta_2 H^{\mathsf T} \]
\[ \Delta_1 = W_2^{\mathsf T} \Delta_2 \odot H \odot (1 - H) \]
\[ \nabla_{W_1} L = \Delta_1 X^{\mathsf T} \]
"""
COLUMN_NAMES = {"P": "p", "T": "t", "H": "h", "X": "x"}
INDEX = r"""
\frac{\partial L}{\partial z_{2;bk}} = \frac{p_{bk} - t_{bk}}{B}
\frac{\partial L}{\partial W_{2;jk}} = \sum_{b=1}^{B} h_{bj} \frac{\partial L}{\partial z_{2;bk}}
\bar h_{bj} = \sum_{k} \frac{\partial L}{\partial z_{2;bk}} W_{2;jk}
\delta_{bj} = \bar h_{bj}\, h_{bj} (1 - h_{bj})
\frac{\partial L}{\partial W_{1;ij}} = \sum_b x_{bi} \delta_{bj}
\frac{\partial L}{\partial b_{1;j}} = \sum_{n=1}^{N} \delta_{nj}
"""
JACOBIAN = r"""
\frac{\partial L}{\partial p_{bj}} = -\frac{1}{B}\frac{t_{bj}}{p_{bj}}
\frac{\partial L}{\partial z^{(2)}_{bk}} = \sum_{j} \frac{\partial L}{\partial p_{bj}} p_{bj} (\delta_{jk} - p_{bk})
\frac{\partial L}{\partial W^{(2)}_{jk}} = \sum_{b} h_{bj} \frac{\partial L}{\partial z^{(2)}_{bk}}
"""  # noqa: E501
LABELS = r"""
\begin{aligned}
p_{bk} &= \frac{e^{z_{bk}}}{\sum_{m} e^{z_{bm}}} \\
dz_{bk} &= \frac{1}{N} \left( p_{bk} - \mathbb{1}[k = t_b] \right) \\
dW_{ik} &= \sum_{b} x_{bi}\, dz_{bk} \\
dc_k &= \sum_b dz_{bk}
\end{aligned}
"""
ONEHOT = r"""
$$ dz = \frac{1}{N}\left(\operatorname{softmax}(z) - Y\right), \quad dW = x^T dz, \quad dc = dz^T \mathbf{1} $$
"""  # noqa: E501
LOGISTIC = r"""
The gradient with $\hat y = \sigma(X w + c)$ is
\[ \nabla_w L = \frac{1}{N} X^\top (\hat y - y), \]
and for the bias \( \frac{\partial L}{\partial c} = \frac1N \mathbf 1^\top (\hat y - y) \).
"""
SAMPLE = r"""
\delta^{(2)} = \frac{\partial L}{\partial z^{(2)}} = z^{(2)} - y
\frac{\partial L}{\partial W^{(2)}} = \delta^{(2)} a^{(1)\top}
\frac{\partial L}{\partial b^{(2)}} = \delta^{(2)}
\delta^{(1)} = \operatorname{diag}(1 - a^{(1)} \odot a^{(1)}) W^{(2)\top} \delta^{(2)}
\frac{\partial L}{\partial W^{(1)}} = \delta^{(1)} x^\top
\frac{\partial L}{\partial b^{(1)}} = \delta^{(1)}
"""
NUMERATOR = r"""
\frac{\partial L}{\partial z_2} = (z_2 - y)^\top
\frac{\partial L}{\partial W_2} = a_1 \frac{\partial L}{\partial z_2}
\frac{\partial L}{\partial a_1} = \frac{\partial L}{\partial z_2} W_2
\frac{\partial L}{\partial z_1} = \frac{\partial L}{\partial a_1} \operatorname{diag}(\tanh'(z_1))
\frac{\partial L}{\partial W_1} = x \frac{\partial L}{\partial z_1}
"""
RELU = r"""
\begin{align*}
r &= y - t \\
\nabla_v L &= h^T r \\
\bar{h} &= r v^T \\
\bar{z} &= \bar{h} \odot \mathbf{1}[z > 0] \\
\nabla_W L &= x^T \bar{z} + \frac{1}{10} W
\end{align*}
"""
CASES = r"""
\begin{equation}
  g_{bj} = \begin{cases} 1 & \text{if } z_{bj} > 0 \\ 0 & \text{otherwise} \end{cases}
\end{equation}
\begin{equation}
  \frac{\partial L}{\partial W_{ij}} = \sum_b (y_b - t_b) v_j g_{bj} x_{bi} + 0.1\, W_{ij}
\end{equation}
"""
THROUGH_TIME = r"""
\frac{\partial L}{\partial h_{tbj}} = h_{tbj} - y_{tbj} + \sum_{k} \delta_{t+1,bk} V_{jk}
\delta_{tbj} = \frac{\partial L}{\partial h_{tbj}} (1 - h_{tbj}^2)
\frac{\partial L}{\partial U_{ij}} = \sum_{t,b} x_{tbi} \delta_{tbj}
\frac{\partial L}{\partial V_{kj}} = \sum_{t,b} h_{t-1,bk} \delta_{tbj}
"""
MATRICES_IN_TIME = r"""
\frac{\partial L}{\partial h_t} = h_t - y_t + \delta_{t+1} V^\top
\delta_t = \frac{\partial L}{\partial h_t} \odot (1 - h_t \odot h_t)
\frac{\partial L}{\partial U} = \sum_{t=1}^{T} x_t^\top \delta_t
\frac{\partial L}{\partial V} = \sum_{t=1}^{T} h_{t-1}^\top \delta_t
"""
LSTM = r"""
\begin{align}
\delta h_t &= h_t - y_t + \delta^i_{t+1} U_i^\top + \delta^f_{t+1} U_f^\top
   + \delta^o_{t+1} U_o^\top + \delta^g_{t+1} U_g^\top \\
\delta c_t &= \delta h_t \odot o_t \odot (1 - \tanh^2(c_t)) + \delta c_{t+1} \odot f_{t+1} \\
\delta^o_t &= \delta h_t \odot \tanh(c_t) \odot o_t \odot (1 - o_t) \\
\delta^f_t &= \delta c_t \odot c_{t-1} \odot f_t \odot (1 - f_t) \\
\delta^i_t &= \delta c_t \odot g_t \odot i_t \odot (1 - i_t) \\
\delta^g_t &= \delta c_t \odot i_t \odot (1 - g_t^2) \\
\frac{\partial L}{\partial W_f} &= \sum_{t=1}^{T} x_t^\top \delta^f_t \\
\frac{\partial L}{\partial U_g} &= \sum_{t=1}^{T} h_{t-1}^\top \delta^g_t \\
\frac{\partial L}{\partial b_o} &= \sum_{t=1}^{T} \mathbf{1}^\top \delta^o_t
\end{align}
"""
COMPACT = r"""
g_{nj} = y_{nj} - t_{nj}
\frac{\partial L}{\partial \beta_j} = \sum_n g_{nj}
\frac{\partial L}{\partial \gamma_j} = \sum_n g_{nj} \hat x_{nj}
\frac{\partial L}{\partial x_{nj}} = \frac{\gamma_j}{N\sqrt{v_j + 0.001}}
   \left( N g_{nj} - \sum_{m} g_{mj} - \hat x_{nj} \sum_m g_{mj} \hat x_{mj} \right)
"""
STAGED = r"""
\bar{\hat x}_{nj} = (y_{nj} - t_{nj}) \gamma_j
\bar v_j = -\frac12 \sum_n \bar{\hat x}_{nj} (x_{nj} - \mu_j) (v_j + 0.001)^{-3/2}
\bar \mu_j = -\sum_n \frac{\bar{\hat x}_{nj}}{\sqrt{v_j + 0.001}}
\frac{\partial L}{\partial x_{nj}} = \frac{\bar{\hat x}_{nj}}{\sqrt{v_j + 0.001}} + \frac2N \bar v_j (x_{nj} - \mu_j) + \frac1N \bar \mu_j
"""  # noqa: E501
LAYER = r"""
g = y - t
\frac{\partial L}{\partial x_{bd}} = \frac{1}{s_b} \Bigl( g_{bd} - \frac15 \sum_{e=1}^{5} g_{be} - \frac15 y_{bd} \sum_{e=1}^{5} g_{be} y_{be} \Bigr)
"""  # noqa: E501
ATTENTION = r"""
\begin{align}
  dO &= O - R \\
  dV &= P^\top dO \\
  dP &= dO\, V^\top \\
  dS &= P \odot \left( dP - (dP \odot P) \mathbf{1} \mathbf{1}^\top \right) \\
  dQ &= \tfrac12 \, dS \, K \\
  dK &= \tfrac12 \, dS^\top Q
\end{align}
"""
CONVOLUTION = r"""
\bar y_{bop} = y_{bop} - T_{bop}
\frac{\partial L}{\partial K_{ocr}} = \sum_{b,p} \bar y_{bop} X_{b,c,p+r}
"""
RIDGE = r"\nabla_w L = A^\top (A w - y) + 3 w"

Case = tuple[Any, str, dict[str, Any], str, int | None]


def wrong(text: str, before: str, after: str) -> str:
    assert text.count(before) >= 1, before
    return text.replace(before, after, 1)


RIGHT: dict[str, Case] = {
    "samples in rows": (nets.classifier, ROWS, {}, "proved", None),
    "samples in columns": (nets.classifier, COLUMNS, {"names": COLUMN_NAMES}, "proved", None),
    "index form": (nets.classifier, INDEX, {}, "proved", None),
    "softmax by its Jacobian": (nets.classifier, JACOBIAN, {}, "proved", None),
    "labels": (nets.labelled, LABELS, {}, "proved", None),
    "labels as a matrix": (nets.labelled, ONEHOT, {"names": {"Y": "onehot(t)"}}, "proved", None),
    "logistic regression in a text": (nets.logistic, LOGISTIC, {}, "proved", None),
    "one sample": (nets.sample, SAMPLE, {}, "proved", None),
    "numerator layout": (nets.sample, NUMERATOR, {}, "proved", None),
    "relu with weight decay": (nets.relu_net, RELU, {}, "proved", None),
    "cases": (nets.relu_net, CASES, {}, "proved", None),
    "through time": (nets.recurrent, THROUGH_TIME, {}, "proved", None),
    "through time, matrices": (nets.recurrent, MATRICES_IN_TIME, {}, "proved", None),
    "LSTM, a delta for each gate": (nets.lstm, LSTM, {}, "proved", None),
    "batch norm, compact": (nets.batch_norm, COMPACT, {}, "proved", None),
    "batch norm, staged": (nets.batch_norm, STAGED, {}, "proved", None),
    "layer norm": (nets.layer_norm, LAYER, {}, "proved", None),
    "attention": (nets.attention, ATTENTION, {}, "proved", None),
    "convolution": (nets.convolution, CONVOLUTION, {}, "proved", None),
    "ridge regression": (nets.ridge, RIDGE, {}, "proved", None),
}
WRONG: dict[str, Case] = {
    "1/B forgotten": (nets.classifier, wrong(ROWS, r"\frac{1}{B}(p - t)", "p - t"), {}, "wrong", 3),
    "sigma' at the output": (nets.classifier, wrong(ROWS, "'(z^{(1)})", "'(h)"), {}, "wrong", 6),
    "off-diagonal terms dropped": (
        nets.classifier, wrong(JACOBIAN, r"(\delta_{jk} - p_{bk})", r"\delta_{jk} (1 - p_{bk})"),
        {}, "wrong", 3),
    "sign": (nets.logistic, wrong(LOGISTIC, r"X^\top (\hat y - y)", r"X^\top (y - \hat y)"), {},
             "wrong", 3),
    "decay forgotten": (nets.relu_net, wrong(RELU, r" + \frac{1}{10} W", ""), {}, "wrong", 7),
    "the step before forgotten": (
        nets.recurrent, wrong(THROUGH_TIME, r" + \sum_{k} \delta_{t+1,bk} V_{jk}", ""), {},
        "wrong", 2),
    "V not transposed": (
        nets.recurrent, wrong(THROUGH_TIME, "V_{jk}", "V_{kj}"), {}, "wrong", 2),
    "LSTM, the cell of this step": (
        nets.lstm, wrong(LSTM, r"c_{t-1}", "c_t"), {}, "wrong", 7),
    "LSTM, the cell's next step forgotten": (
        nets.lstm, wrong(LSTM, r" + \delta c_{t+1} \odot f_{t+1}", ""), {}, "wrong", 5),
    "mean's path forgotten": (
        nets.batch_norm, wrong(COMPACT, r"- \sum_{m} g_{mj} ", ""), {}, "wrong", 5),
    "variance's power": (nets.batch_norm, wrong(STAGED, "-3/2", "-1/2"), {}, "wrong", 3),
    "softmax backward": (nets.attention, wrong(
        ATTENTION, r"\left( dP - (dP \odot P) \mathbf{1} \mathbf{1}^\top \right)", "dP"), {},
        "wrong", 6),
    "kernel shifted": (nets.convolution, wrong(CONVOLUTION, "p+r", "p-r+2"), {}, "wrong", 3),
    "a factor 2": (nets.ridge, wrong(RIDGE, "+ 3 w", "+ 6 w"), {}, "wrong", 1),
}
