import numpy as np
import pytest

from fewmask.errors import UsageError
from fewmask.metrics.feature_distance import kernel_distance


def naive(a, b):
    """Equation 4, sum by sum."""

    def k(x, y):
        return (x @ y / len(x) + 1) ** 3

    m, n = len(a), len(b)
    total = sum(k(a[i], a[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    total += sum(k(b[i], b[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return total - 2 * sum(k(x, y) for x in a for y in b) / (m * n)


class TestKernelDistance:
    def test_against_sums(self):
        rng = np.random.default_rng(0)
        a, b = rng.normal(size=(5, 4)), rng.normal(0.5, 2, size=(7, 4))
        assert kernel_distance(a, b).value == pytest.approx(naive(a, b))

    def test_interval_is_the_jackknifes(self):
        rng = np.random.default_rng(1)
        a, b = rng.normal(size=(5, 4)), rng.normal(0.5, 2, size=(7, 4))
        left_a = [naive(np.delete(a, i, 0), b) for i in range(5)]
        left_b = [naive(a, np.delete(b, i, 0)) for i in range(7)]
        variance = 4 / 5 * np.square(left_a - np.mean(left_a)).sum()
        variance += 6 / 7 * np.square(left_b - np.mean(left_b)).sum()
        found = kernel_distance(a, b)
        assert found.high - found.value == pytest.approx(1.96 * np.sqrt(variance))
        assert found.value - found.low == pytest.approx(1.96 * np.sqrt(variance))

    def test_interval_holds_0_for_about_95_of_100_pairs_of_one_distribution(self):
        rng = np.random.default_rng(2)
        inside = 0
        for _ in range(200):
            found = kernel_distance(rng.normal(size=(40, 6)), rng.normal(size=(40, 6)))
            inside += found.low <= 0 <= found.high
        assert inside >= 180

    def test_is_0_on_average_for_one_distribution_and_not_for_two(self):
        rng = np.random.default_rng(3)
        same = [
            kernel_distance(rng.normal(size=(20, 6)), rng.normal(size=(20, 6))).value
            for _ in range(300)
        ]
        assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(300)
        other = kernel_distance(rng.normal(size=(60, 6)), rng.normal(1, 1, size=(60, 6)))
        assert other.low > 0

    def test_two_images_are_too_few(self):
        with pytest.raises(UsageError, match="FEATURES-FEW"):
            kernel_distance(np.ones((2, 4)), np.ones((5, 4)))
