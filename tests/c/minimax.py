"""Prints the coefficients of csrc/vec/math.h: python tests/c/minimax.py (needs mpmath, half a minute).

One line a polynomial: its interval, degree and largest weighted error after rounding. Remez exchange; the
four lowest coefficients are rounded one by one and the rest fitted again, so that they make up for the rounding.
"""

from mpmath import asinh, atanh, cos, erf, erfc, log, lu_solve, matrix, mp, mpf, pi, sin, sqrt, tanh

mp.prec = 160


def alternating(points, count):
    """`count` points whose errors alternate, out of the peaks of all stretches of one sign; [] if there are too few."""
    peaks = []
    for x, e in points:
        if not peaks or (e > 0) != (peaks[-1][1] > 0):
            peaks.append((x, e))
        elif abs(e) > abs(peaks[-1][1]):
            peaks[-1] = (x, e)
    while len(peaks) > count:
        k = min(range(len(peaks)), key=lambda i: abs(peaks[i][1]))
        if 0 < k < len(peaks) - 1 and len(peaks) > count + 1:
            k -= abs(peaks[k - 1][1]) < abs(peaks[k + 1][1])
            del peaks[k : k + 2]
        else:
            del peaks[0 if abs(peaks[0][1]) < abs(peaks[-1][1]) else -1]
    return peaks if len(peaks) == count else []


def remez(f, weight, a, b, degree):
    """Coefficients c of the polynomial with the least max |P - f| * weight on [a, b]."""
    n = degree + 1
    nodes = [(a + b - (b - a) * cos(pi * i / n)) / 2 for i in range(n + 1)]
    grid = [(a + b - (b - a) * cos(pi * i / (32 * n + 1))) / 2 for i in range(32 * n + 2)]
    grid = [(x, f(x), weight(x)) for x in grid]
    for _ in range(20):
        nodes = [x if abs(x) > (b - a) / 1000 else x + (b - a) / 500 for x in nodes]
        system = matrix([[x**k for k in range(n)] + [(-1) ** i / weight(x)] for i, x in enumerate(nodes)])
        c = list(lu_solve(system, matrix([f(x) for x in nodes])))[:n]
        peaks = alternating([(x, (horner(c, x) - y) * w) for x, y, w in grid], n + 1)
        if not peaks:
            break
        nodes = [x for x, _ in peaks]
        sizes = [abs(e) for _, e in peaks]
        if max(sizes) < min(sizes) * mpf("1.001"):
            break
    return c


def horner(c, x):
    y = mpf(0)
    for ck in reversed(c):
        y = y * x + ck
    return y


def rounded(x, bits):
    with mp.workprec(bits):
        return +x


def fit(name, f, weight, a, b, degree, bits, fixed=()):
    a, b = mpf(a), mpf(b)
    c = [mpf(ck) for ck in fixed]
    while len(c) <= degree:
        m = len(c)
        rest = remez(lambda x: (f(x) - horner(c, x)) / x**m, lambda x: weight(x) * abs(x) ** m, a, b, degree - m)
        c += [rounded(ck, bits) for ck in (rest[:1] if m < 4 else rest)]
    grid = [a + (b - a) * i / 1999 for i in range(2000)]
    worst = max(abs(horner(c, x) - f(x)) * weight(x) for x in grid if x != 0)
    print(f"{name}: [{mp.nstr(a, 4)}, {mp.nstr(b, 4)}], degree {degree}, {mp.nstr(worst, 2)}")
    print("    " + ", ".join(mp.nstr(ck, 9) + "f" if bits == 24 else mp.nstr(ck, 17) for ck in c))


def exp2_with_table(k, entries, degree, bits):
    """2^f beside a table of 2^((j + s) / entries), where 2^(s / entries) = 1 + k 2^(1 - bits).

    k is the one of 4e5 (float) or 4e6 (double) tried whose entries are closest to representable numbers. The words are
    as v_exp2_core wants them: less the exponent of 1, and less j in the place where t brings it.
    """
    width, first, half = 32 if bits == 24 else 64, 1 + mpf(k) / 2 ** (bits - 1), mpf(1) / (2 * entries)
    exact = [first * mpf(2) ** (mpf(j) / entries) * 2 ** (bits - 1) for j in range(entries)]
    words = [int(mp.nint(x)) - (j << (bits - 1)) // entries - 2 ** (bits - 1) for j, x in enumerate(exact)]
    print(f"table of {entries}: largest rounding error {mp.nstr(max(abs(x - mp.nint(x)) for x in exact), 2)} ULP")
    print("    " + ", ".join(f"0x{w % 2**width:0{width // 4}x}" for w in words))
    head = rounded(1 / first - 1, bits)
    fit(
        f"exp2 with table of {entries}",
        lambda x: 2**x / first - 1,
        lambda x: 1 / 2**x,
        -half,
        half,
        degree,
        bits,
        [head],
    )


def constants(bits, high_bits):
    ln2 = log(mpf(2))
    for name, x, head in (("log2(e)", 1 / ln2, bits), ("ln 2", ln2, high_bits)):
        print(f"{name} = {mp.nstr(rounded(x, head), 18)} + {mp.nstr(rounded(x - rounded(x, head), bits), 18)}")
    print(f"1 - high / ln 2 = {mp.nstr(rounded(1 - rounded(ln2, high_bits) / ln2, bits), 18)}")


if __name__ == "__main__":
    tiny = mpf(2) ** -30
    exp2_with_table(22862, 8, 4, 24)
    exp2_with_table(72612, 16, 3, 24)
    exp2_with_table(6701016351158, 16, 6, 53)
    for bits, high_bits, degrees in ((24, 12, (6, 2, 4, 6, 7, 4, 3, 3)), (53, 38, (11, 6, 10, 12, 19, 11, 6, 6))):
        print(f"--- {bits} bits")
        constants(bits, high_bits)
        fit("exp2", lambda x: 2**x, lambda x: 1 / 2**x, -0.5, 0.5, degrees[0], bits, [1])
        # z = s^2: log((1 + s) / (1 - s)) = s (2 + z P(z)); z = x^2: tanh, asinh = x (1 + z P(z)), erf = x (1 + P(z))
        fit("log", lambda z: 2 * (atanh(sqrt(z)) / sqrt(z) - 1) / z, lambda z: z / 2, tiny, 0.0295, degrees[1], bits)
        fit("tanh", lambda z: (tanh(sqrt(z)) / sqrt(z) - 1) / z, lambda z: z, tiny, mpf("0.55") ** 2, degrees[2], bits)
        fit("erf", lambda z: erf(sqrt(z)) / sqrt(z) - 1, lambda z: 1, tiny, 1, degrees[3], bits)
        fit(
            "log2(erfc(1 + u))",
            lambda u: log(erfc(1 + u), 2),
            lambda u: erfc(1 + u) * log(2) / erf(1 + u),
            tiny,
            3 if bits == 24 else 5,
            degrees[4],
            bits,
        )
        fit(
            "asinh",
            lambda z: (asinh(sqrt(z)) / sqrt(z) - 1) / z,
            lambda z: z,
            tiny,
            mpf("0.5225") ** 2,
            degrees[5],
            bits,
        )
        # z = r^2: sin(pi r) = r (pi + z P(z)), cos(pi r) = 1 + z P(z)
        fit(
            "sinpi",
            lambda z: (sin(pi * sqrt(z)) / sqrt(z) - pi) / z,
            lambda z: z * sqrt(z) / sin(pi * sqrt(z)),
            tiny,
            mpf(1) / 16,
            degrees[6],
            bits,
        )
        fit(
            "cospi",
            lambda z: (cos(pi * sqrt(z)) - 1) / z,
            lambda z: z / cos(pi * sqrt(z)),
            tiny,
            mpf(1) / 16,
            degrees[7],
            bits,
        )
