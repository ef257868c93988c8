"""Names of what is made of an equation for the sake of its kernels."""

from __future__ import annotations

from codegen.packed import packed_name


def test_a_name_that_is_taken_has_the_next_number():
    taken: set[str] = set()
    for want in ("_tiles_d_K1", "_tiles2_d_K1", "_tiles3_d_K1"):
        taken.add(packed_name("tiles", "_d_K1", taken))
        assert want in taken
    assert packed_name("tiles", "d_K1", taken) == "_tiles4_d_K1"
