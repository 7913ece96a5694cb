import numpy as np
import pytest

from fmct_hpc.train.failures import daly_interval, expected_seconds, young_interval


def simulated(work: float, interval: float, save: float, failure: float, restart: float, seed: int) -> float:
    """Wall-clock seconds of a run, event by event."""
    random = np.random.default_rng(seed)
    clock = 0.0
    fails = random.exponential(failure)
    done, target = 0.0, work
    while done < target:
        needed = min(interval, target - done) + save
        if clock + needed <= fails:
            clock += needed
            done += needed - save
            continue
        while True:  # restarts fail too
            clock = fails
            fails = clock + random.exponential(failure)
            if clock + restart <= fails:
                clock += restart
                break
    return clock


@pytest.mark.parametrize(
    ("save", "failure", "restart"), [(30.0, 20_000.0, 300.0), (200.0, 3000.0, 400.0), (400.0, 900.0, 100.0)]
)
def test_expected_time_and_best_interval_equal_a_simulation(
    save: float, failure: float, restart: float
) -> None:
    best = daly_interval(save, failure)
    work = 3000 * best

    def mean(interval: float) -> float:
        return float(np.mean([simulated(work, interval, save, failure, restart, seed) for seed in range(4)]))

    means = {factor: mean(factor * best) for factor in (0.4, 1.0, 2.5)}
    for factor, wall in means.items():
        assert wall == pytest.approx(expected_seconds(work, factor * best, save, failure, restart), rel=0.08)
    assert means[1.0] < min(means[0.4], means[2.5])


def test_dalys_higher_order_interval_beats_the_first_order_for_long_saves() -> None:
    save, failure = 400.0, 900.0
    work = 1e6
    daly, young = (
        expected_seconds(work, interval(save, failure), save, failure)
        for interval in (daly_interval, young_interval)
    )
    around = [expected_seconds(work, seconds, save, failure) for seconds in np.linspace(50, 3000, 2000)]
    assert daly < young
    assert daly == pytest.approx(min(around), rel=1e-3)


def test_both_orders_agree_for_rare_failures() -> None:
    assert daly_interval(5.0, 1e7) == pytest.approx(young_interval(5.0, 1e7), rel=1e-3)
    assert daly_interval(3000.0, 1000.0) == 1000.0
