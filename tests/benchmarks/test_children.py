"""Children of the benchmark do their jobs, in this process; how well and how fast is what benchmarks are for."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from benchmarks import child, query_child
from benchmarks.job import Job, Measurement
from benchmarks.ours import WAYS
from benchmarks.query_job import QueryJob, QueryMeasurement
from benchmarks.query_pairs import OURS, PAIRS, PLAIN
from robustcheck.threats import L2Ball, LinfBall

pytestmark = pytest.mark.usefixtures("process")


@pytest.mark.xrays
@pytest.mark.parametrize("contender", [*WAYS, "bare"])
def test_who_follows_gradients_is_measured(part, contender):
    found = child.measure(
        Job(
            contender=contender,
            candidate="cnn-standard",
            archive=str(part),
            images=8,
            levels=[1, 2, 4, 8],
            steps=5,
            batch=4,
            threads=1,
            seed=0,
        )
    )
    assert Measurement(**json.loads(json.dumps(asdict(found)))) == found
    assert found.clean >= found.robust[0] >= found.robust[-1]
    assert len(found.robust) == 4
    assert min(found.seconds, found.forward, found.gradient, found.peak_mib) > 0


def _asked(part, pair: str, contender: str, queries: int) -> QueryMeasurement:
    job = QueryJob(
        pair=pair,
        contender=contender,
        candidate="cnn-standard",
        archive=str(part),
        epsilon="0.5" if PAIRS[pair].norm == "l2" else "8/255",
        queries=queries,
        batch=4,
        threads=1,
        seed=0,
    )
    return query_child.measure(QueryJob(**json.loads(json.dumps(asdict(job)))))


@pytest.mark.xrays
@pytest.mark.parametrize("contender", [OURS, PLAIN])
@pytest.mark.parametrize("pair", ["hopskipjump-l2", "nes"])
def test_ours_that_ask_are_measured(part, pair, contender):
    found = _asked(part, pair, contender, 80)
    assert found.left_as_floats is None
    assert found.clean >= found.left
    assert 0 < found.attacked <= 8
    assert found.images > found.attacked


@pytest.mark.xrays
def test_a_peer_that_asks_is_measured(part):
    pytest.importorskip("torchattacks", reason="torchattacks is not installed (pip install '.[test]')")
    found = _asked(part, "square", "torchattacks", 80)
    assert 0 <= found.left <= found.clean
    assert 0 <= found.left_as_floats <= found.clean
    assert found.attacked < found.images <= 80 * found.attacked


@pytest.mark.parametrize("epsilon", ["8/255", "0.03137254901960784", "8 levels"])
def test_peers_search_the_ball_that_the_policy_means(epsilon):
    assert query_child.ball_for(PAIRS["square"], epsilon) == LinfBall(levels=8, maximum=255)


def test_a_length_may_be_more_than_the_range():
    ball = query_child.ball_for(PAIRS["boundary"], "1.5")
    assert isinstance(ball, L2Ball)
    assert ball.radius == 1.5
