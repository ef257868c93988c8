"""Handwritten digits: 8×8 pixels in, ten classes out.

chainrule train examples/digits.py --data digits
"""

import derive as dr

net = dr.Network("digits")
x = net.input("x", "B", 64)
t = net.input("t", "B", dtype=int)
h1 = dr.dense(x, 256, dr.relu)
h2 = dr.dense(h1, 128, dr.relu)
z = dr.dense(h2, 10)
net.loss(dr.cross_entropy(z, t))
