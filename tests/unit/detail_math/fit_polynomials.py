#!/usr/bin/env python3
"""Prints the coefficients of include/mortise/detail/math.hpp: weighted minimax polynomials by Remez' exchange, 60 digits (needs mpmath)."""
import struct
import mpmath as mp

mp.mp.dps = 60


def remez(f, weight, a, b, degree, rounds=14):
    """Polynomial p of `degree` minimising max |weight * (p - f)| on [a, b]; returns (coefficients low to high, error)."""
    n = degree + 2
    x = [(a + b) / 2 - (b - a) / 2 * mp.cos(mp.pi * k / (n - 1)) for k in range(n)]
    grid = [(a + b) / 2 - (b - a) / 2 * mp.cos(mp.pi * k / 600) for k in range(601)]
    for _ in range(rounds):
        m = mp.matrix(n, n)
        rhs = mp.matrix(n, 1)
        for i in range(n):
            for j in range(degree + 1):
                m[i, j] = x[i] ** j
            m[i, degree + 1] = (-1) ** i / weight(x[i])
            rhs[i] = f(x[i])
        c = mp.lu_solve(m, rhs)
        coefficients = [c[j] for j in range(degree + 1)]
        error = [weight(g) * (mp.polyval(coefficients[::-1], g) - f(g)) for g in grid]
        runs, current = [], [0]
        for k in range(1, len(grid)):
            if (error[k] > 0) == (error[current[-1]] > 0):
                current.append(k)
            else:
                runs.append(current)
                current = [k]
        runs.append(current)
        peaks = [max(run, key=lambda k: abs(error[k])) for run in runs]
        while len(peaks) > n:
            peaks.pop(0 if abs(error[peaks[0]]) < abs(error[peaks[-1]]) else -1)
        if len(peaks) < n:
            break
        x = [grid[k] for k in peaks]
    return coefficients, max(abs(e) for e in error)


def show(name, fit):
    coefficients, error = fit
    print(f"{name}  // error {mp.nstr(error, 3)}, highest degree first")
    print("  float : " + ", ".join(mp.nstr(c, 10) + "f" for c in coefficients[::-1]))
    print("  double: " + ", ".join(mp.nstr(c, 18) for c in coefficients[::-1]))


one = lambda x: mp.mpf(1)
half_ln2 = mp.log(2) / 2 * mp.mpf("1.01")


def exp_tail(r):  # (exp(r) - 1 - r) / r^2
    return mp.nsum(lambda k: r**k / mp.factorial(k + 2), [0, 40]) if abs(r) < 0.05 else (mp.exp(r) - 1 - r) / r**2


def log_tail(z):  # log((1+s)/(1-s)) = 2 s + s z P(z), z = s^2
    if z < mp.mpf("1e-8"):
        return mp.mpf(2) / 3 + 2 * z / 5 + 2 * z * z / 7
    s = mp.sqrt(z)
    return (2 * mp.atanh(s) - 2 * s) / (s * z)


def erf_small(s):  # erf(x) = x + x P(x^2)
    if s < mp.mpf("1e-20"):
        return 2 / mp.sqrt(mp.pi) - 1 - 2 * s / (3 * mp.sqrt(mp.pi))
    x = mp.sqrt(s)
    return mp.erf(x) / x - 1


def erf_large(t):  # erf(t) = 1 - exp(-t P(t))
    return -mp.log(mp.erfc(t)) / t


for degree in (4, 9):
    show(f"exp degree {degree}", remez(exp_tail, lambda r: r * r / mp.exp(r) + mp.mpf("1e-30"), -half_ln2, half_ln2, degree))
for degree in (3, 6):
    show(f"log degree {degree}", remez(log_tail, lambda z: z + mp.mpf("1e-30"), mp.mpf(0), mp.mpf("0.02945"), degree))
for degree in (5, 11):
    show(f"erf |x| < 0.9375, degree {degree}", remez(erf_small, one, mp.mpf(0), mp.mpf("0.9375") ** 2, degree))
for degree, last in ((5, "4.1"), (6, "4.1"), (16, "6.1"), (17, "6.1")):
    show(f"erf 0.9375 to {last}, degree {degree}",
         remez(erf_large, lambda t: t * mp.erfc(t) / mp.erf(t), mp.mpf("0.9375"), mp.mpf(last), degree))
