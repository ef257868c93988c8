"""Why gradients vanish or explode, derived from the equations.

`moments`: what an activation does to a Gaussian. `meanfield`: fixed points, edge of chaos, depth
scales. `propagate`: Program → relations between the moments of its tensors, signals and adjoints.
`forecast`: the same in numbers. `jacobian`: one layer's Jacobian, its norm, products over time.
`measure`: what arrays at hand say. `diagnose`: the verdict in words, with remedies re-derived.
"""
