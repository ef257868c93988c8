"""exp, expm1, log, log1p, tanh, erf and erfc in single precision, without a branch, so that loops
over them become vector code.

A module's kernels call these instead of the C library's, which LLVM cannot make vectors of. Each
is a range reduction by exact arithmetic and a polynomial that interpolates at Chebyshev nodes
(computed at 40 digits: ``python benchmarks/vector_math.py --fit``); the same script measures the
error over the whole single-precision range: at most 4 units in the last place, NaN and infinities
as IEEE 754 has them. In double precision the library's functions are called.

They are compiled without ``reassoc``: rounding by adding and subtracting 1.5·2²³ needs the order
of operations as it is written.
"""

from __future__ import annotations

from collections.abc import Sequence

# interpolating polynomials, lowest power first
EXP = (0.5000000013, 0.1666666668, 0.04166646501, 0.008333310934, 0.001393364103, 0.0001989098087)
TANH = (-0.3333333323, 0.1333331287, -0.05396155178, 0.021788322, -0.008410070802, 0.00237076564)
LOG = (0.3333333118, -0.24999996958, 0.200007157489, -0.166678023195, 0.142490576457,
       -0.124256873315, 0.116854199235, -0.114797338466, 0.0697161147145)
ERF = (1.12837916585, -0.376126266667, 0.112835947152, -0.0268542120106, 0.00518908742343,
       -0.000801686428717, 7.87587506269e-5)
ERF_FAR = (-0.000765897779698, -1.12589365241, -0.639141257647, -0.103281117598, 0.022604772238,
           -0.0034323513807, 0.000316937022491, -1.32723618112e-5)  # of log(erfc(x))
ERFC_SCALE = 1.5
ERFC = (0.643170836945, 0.677133339766, 0.201661537391, -0.254765799867, -0.0867923372325,
        0.201968651519, -0.0311249392422, -0.154809972143, 0.122904892379, 0.0554893196475,
        -0.08895387537)  # of exp(y²)*erfc(y)/t by t - 1/2, where t = 1/(1 + y/ERFC_SCALE)


def _polynomial(x: str, coefficients: Sequence[float]) -> str:
    text = f"F({coefficients[-1]!r})"
    for c in reversed(coefficients[:-1]):
        text = f"({text}*{x} + F({c!r}))"
    return text


_SPLIT = """\
        y = x if x < F(89) else F(89)
        y = y if y > F(-104) else F(-104)
        t = {scaled}*F(1.44269504) + F(12582912)  # log 2's multiple, low bits
        n = t - F(12582912)
        r = y - n*F(0.693359375) + n*F(2.1219444005e-4){added}
        i = I(F(t).view(I) - I(0x4B400000))
        h = I(i >> I(1))  # 2**i in two factors: one would overflow before the result does
        one = I((h + I(127)) << I(23)).view(F)
        two = I((i - h + I(127)) << I(23)).view(F)"""
_EXP = f"""\
    @exact
    def fast_exp(x):
{_SPLIT.format(scaled="y", added="")}
        p = F(1) + (r + r*r*{_polynomial("r", EXP)})
        return p*one*two if x == x else x"""
_EXPM1 = f"""\
    @exact
    def fast_expm1(x):
{_SPLIT.format(scaled="y", added="")}
        over = I(I(0x7F000000) - F(two).view(I)).view(F)  # 1/two
        p = r + r*r*{_polynomial("r", EXP)}
        return (p*one + (one - over))*two if x == x else x"""
# (factor + more)*exp(x + low), of two sums (|low| < 1, |more| tiny) that no one number holds
_EXP_PRODUCT = f"""\
    @exact
    def fast_exp_product(x, low, factor, more):
{_SPLIT.format(scaled="(y + low)", added=" + low")}
        p = factor + (factor*(r + r*r*{_polynomial("r", EXP)}) + more)
        return p*one*two if x == x else x"""

_LOG_OF_BITS = f"""\
        i = F(u).view(I)
        k = I((i - I(0x3F3504F3)) >> I(23))  # u = 2**k * m, m between sqrt(1/2) and sqrt(2)
        f = I(i - I(k << I(23))).view(F) - F(1){{added}}
        n = F(k){{over}}
        p = f*f*f*{_polynomial("f", LOG)}
        y = n*F(-2.1219444005e-4) + (p - F(0.5)*f*f) + f + n*F(0.693359375)
        y = y if {{of}} < F(np.inf) else {{of}}
        y = y if {{of}} > F(0) else (F(-np.inf) if {{of}} == F(0) else F(np.nan))
        return y"""
_LOG = f"""\
    @exact
    def fast_log(x):
        tiny = x < F(1.17549435e-38)
        u = x*F(8388608) if tiny else x
{_LOG_OF_BITS.format(added="", over=" - (F(23) if tiny else F(0))", of="x")}"""
_LOG1P = f"""\
    @exact
    def fast_log1p(x):
        u = F(1) + x
        low = x - (u - F(1)) if x < F(1) else F(1) - (u - x)  # 1 + x is u + low
{_LOG_OF_BITS.format(added=" + F(0.5)*low*I((I(128) - k) << I(23)).view(F)", over="", of="u")}"""
_TANH = f"""\
    @exact
    def fast_tanh(x):
        a = abs(x)
        z = a*a
        near = a + a*z*{_polynomial("z", TANH)}
        far = F(1) - F(2)/(fast_exp(a + a) + F(1))
        y = near if a < F(0.6) else far
        return y if x >= F(0) else -y"""


# t is 1/q but for what it is rounded by, which weighs once to twice in the result
_ERFC = f"""\
{_EXP_PRODUCT}


    @exact
    def fast_erfc(x):
        a = abs(x)
        y = a if a < F(11) else F(11)
        q = F(1) + y*F({1/ERFC_SCALE!r})
        t = F(1)/q
        e = F(1) - q*t + t*(q - F(1) - y*F({1/ERFC_SCALE!r}))  # by how much t is too small
        s = t - F(0.5)
        u = I(F(y).view(I) & I(-4096)).view(F)  # so short that its square is exact
        h = s*{_polynomial("s", ERFC[1:])}
        p = F({ERFC[0]!r}) + h
        m = F({ERFC[0]!r}) - p + h  # what p was rounded by
        y = fast_exp_product(-u*u, F(1.5)*e - (y - u)*(y + u), t*p, t*m)
        y = y if x >= F(0) else F(2) - y
        return y if x == x else x"""
_ERF = f"""\
    @exact
    def fast_erf(x):
        a = abs(x)
        y = a if a < F(4) else F(4)  # from there on it is 1
        z = x*x
        far = F(1) - fast_exp({_polynomial("y", ERF_FAR)})
        y = x*{_polynomial("z", ERF)} if a < F(1) else (far if x >= F(0) else -far)
        return y if x == x else x"""

# by the name in `codegen.scalars.FUNCTIONS`: the name here, the text, what it calls
_ALL = {
    "np.exp": ("fast_exp", _EXP, ()),
    "np.expm1": ("fast_expm1", _EXPM1, ()),
    "np.log": ("fast_log", _LOG, ()),
    "np.log1p": ("fast_log1p", _LOG1P, ()),
    "np.tanh": ("fast_tanh", _TANH, ("np.exp",)),
    "math.erfc": ("fast_erfc", _ERFC, ()),
    "math.erf": ("fast_erf", _ERF, ("np.exp",)),
}


def vectorised(library: str) -> dict[str, str]:
    """The functions of a module that stand for one of the library's, in order of use: the last
    is the one itself; empty where there is none."""
    if library not in _ALL:
        return {}
    name, single, calls = _ALL[library]
    found: dict[str, str] = {}
    for other in calls:
        found |= vectorised(other)
    double = f"    @kernel\n    def {name}(x):\n        return {library}(x)"
    found[name] = f"if F is np.float32:\n\n{single}\n\nelse:\n\n{double}"
    return found
