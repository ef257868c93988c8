"""Data-parallel training over MPI: each rank computes on its own rows of every minibatch.

    derived program → shared program (share.py): a sum over rows is a part, to be added up
    → kernels → `SharedModel` (model.py): runs the gradient section by section, adds up between
    `Team` (team.py): the ranks, what they agree on, and who does not answer
    `launch` (launch.py): starts mpiexec, names the rank that failed, goes on from a checkpoint

Nothing here is imported unless a run has several ranks.
"""
