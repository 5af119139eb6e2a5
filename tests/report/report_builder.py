"""Reports as an evaluation would make them, and the counterexample files beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from robustcheck.digests import pixels_sha256
from robustcheck.results import (
    AuditReport,
    Cost,
    DataInfo,
    FileInfo,
    Finding,
    GateResult,
    Metric,
    ModelInfo,
    Outcome,
    PolicyInfo,
    Queries,
    QueryPoint,
    Requirement,
    Surrogate,
    Threat,
    Verdict,
)

SCRIPT = "<script>alert(1)</script>"
HOSTILE = f"{SCRIPT}\"'&]]>\x00\x1b[31m\u202e\udcff\r\n\t{{{{ 7*7 }}}} [bold]x[/bold] [/]"


def metric(successes: int, samples: int = 500, *, width: float = 0.04) -> Metric:
    value = successes / samples
    low, high = max(0.0, value - width), min(1.0, value + width)
    return Metric(value=value, low=low, high=high, successes=successes, samples=samples)


def threat(levels: int = 2, norm: str = "linf", **changes) -> Threat:
    known = {"goal": "untargeted", "knowledge": "white-box", "norm": norm, "epsilon": f"{levels}/255"}
    return Threat(**known | {"epsilon_share": levels / 255, "epsilon_levels": levels} | changes)


def outcomes(broken: int, held: int, wrong: int, *, gate: str = "pgd[2/255]", folder: str = "pgd-2-255"):
    rows = []
    for index in range(broken + held + wrong):
        label, other = ("pneumonia", "normal") if index % 2 else ("normal", "pneumonia")
        name = f"test/{index:05d}"
        if index < broken:
            file = f"counterexamples/{folder}/{index:05d}.png"
            more = {"found_by": gate, "distance_levels": 2.0, "restart": 0, "step": 7, "counterexample": file}
            more |= {"evidence": "searched"}
            rows.append(Outcome(sample=name, label=label, clean=label, attacked=other, status="broken", **more))
        elif index < broken + held:
            rows.append(
                Outcome(
                    sample=name, label=label, clean=label, attacked=label, status="held", score=0.9, evidence="searched"
                )
            )
        else:
            rows.append(Outcome(sample=name, label=label, clean=other, attacked=other, status="wrong"))
    return tuple(rows)


def gate(
    verdict: Verdict = "pass",
    *,
    id: str = "pgd[2/255]",  # noqa: A002
    successes: int = 405,
    bound: str = ">= 0.7",
    met: bool | None = True,
    **changes,
) -> GateResult:
    known = {
        "attack": "pgd",
        "parameters": {"steps": 40, "restarts": 2, "step_size": None, "random_start": True},
        "threat": threat(),
        "metrics": {"accuracy": metric(successes), "sensitivity": metric(200, 250)},
        "requirements": (Requirement(metric="accuracy", bound=bound, met=met),),
        "cost": Cost(seconds=12.34, forward=20480, gradient=18211),
        "samples": outcomes(500 - successes - 20, successes, 20, gate=id),
    }
    return GateResult(id=id, verdict=verdict, **known | changes)


def failing(**changes) -> GateResult:
    return gate("fail", **{"id": "pgd[4/255]", "successes": 305, "met": False} | changes)


def erring(**changes) -> GateResult:
    error = "the candidate gave NaN on 3 samples\nTraceback (most recent call last):\n  second line"
    nothing = {"metrics": {}, "requirements": (), "samples": (), "cost": Cost()}
    return gate("error", **{"id": "nes", "attack": "nes", "error": error} | nothing | changes)


def inconclusive(**changes) -> GateResult:
    return gate("inconclusive", **{"id": "fgsm", "attack": "fgsm", "successes": 345, "met": False} | changes)


def clean_gate(**changes) -> GateResult:
    rows = outcomes(0, 430, 70)
    known = {"id": "clean", "attack": None, "threat": None, "parameters": {}, "samples": rows, "successes": 430}
    return gate("pass", **known | changes)


MODEL = ModelInfo(
    path="candidate.onnx",
    format="onnx",
    sha256="a1" * 32,
    files=(
        FileInfo(path="candidate.onnx", sha256="b2" * 32, bytes=44_731_220),
        FileInfo(path="candidate.onnx.data", sha256="c3" * 32, bytes=1024),
    ),
    task="multiclass",
    labels=("normal", "pneumonia"),
    positive="pneumonia",
    operating_point=0.5,
    output="logits (the samples' scores leave [0, 1])",
)
DATA = DataInfo(
    source="medmnist:pneumoniamnist",
    split="test",
    sha256="d4" * 32,
    samples=500,
    available=624,
    by_label={"normal": 188, "pneumonia": 312},
    bits=8,
    shape=(1, 28, 28),
    synthetic=False,
)


def report(*gates: GateResult, verdict: Verdict = "pass", **changes) -> AuditReport:
    known = {
        "policy": PolicyInfo(path="policies/pneumonia_mnist.yaml", name="Chest X-ray gate", sha256="e5" * 32),
        "model": MODEL,
        "data": DATA,
        "environment": {"robustcheck": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
        "seed": 7,
        "started": "2025-11-23T07:10:00+00:00",
        "seconds": 61.5,
    }
    return AuditReport(verdict=verdict, gates=gates, **known | changes)


def synthetic(**changes) -> AuditReport:
    return report(gate(), data=replace(DATA, synthetic=True, source="phantom:nodule"), **changes)


def mixed() -> AuditReport:
    return report(clean_gate(), gate(), failing(), inconclusive(), erring(), verdict="error", not_run=("late",))


def hostile() -> AuditReport:
    """Every text that comes from outside tries something."""
    row = Outcome(
        sample=HOSTILE,
        label=HOSTILE,
        clean=HOSTILE,
        attacked=HOSTILE,
        status="broken",
        found_by=HOSTILE,
        counterexample="../" + HOSTILE,
        found_after=10**30,
    )
    finding = Finding(code=HOSTILE, severity="warning", message=HOSTILE)
    bad = failing(
        id=HOSTILE,
        attack=HOSTILE,
        parameters={HOSTILE: [HOSTILE]},
        threat=threat(goal=HOSTILE, knowledge=HOSTILE, norm=HOSTILE, epsilon=HOSTILE, queries=9, top_k=-1),
        metrics={"accuracy": metric(305), HOSTILE: metric(1)},
        samples=(row,),
        findings=(finding,),
        query_curve=(QueryPoint(queries=-1, accuracy=-1.0), QueryPoint(queries=5, accuracy=1e300)),
        surrogates=(replace(TRAINED, path=HOSTILE, format=HOSTILE, sha256=HOSTILE, trained=HOSTILE),),
    )
    model = ModelInfo(
        path=HOSTILE,
        format=HOSTILE,
        sha256=HOSTILE,
        files=(FileInfo(path=HOSTILE, sha256=HOSTILE, bytes=1),),
        task=HOSTILE,
        labels=(HOSTILE,),
        positive=HOSTILE,
        operating_point=None,
        architecture=HOSTILE,
        architecture_args={HOSTILE: HOSTILE},
        preprocess={HOSTILE: [HOSTILE]},
        precision=HOSTILE,
        notes=(HOSTILE,),
    )
    data = replace(DATA, source=HOSTILE, by_label={HOSTILE: 1}, notes=(HOSTILE,))
    return report(
        bad,
        erring(id="e", error=HOSTILE + "\n" + HOSTILE),
        verdict="error",
        policy=PolicyInfo(path=HOSTILE, name=HOSTILE, sha256=HOSTILE, text=HOSTILE),
        model=model,
        data=data,
        environment={HOSTILE: HOSTILE},
        started=HOSTILE,
        not_run=(HOSTILE + "2",),
    )


def with_queries(result: GateResult) -> GateResult:
    """The gate with the queries after which its broken samples were found, late ones ever rarer, and their curve."""
    broken = [row.sample for row in result.samples if row.status == "broken"]
    after = {name: 1 + index**2 * result.threat.queries // len(broken) ** 2 for index, name in enumerate(broken)}
    rows = tuple(replace(row, found_after=after.get(row.sample)) for row in result.samples)
    right = sum(row.status != "wrong" for row in rows)
    steps = [(queries, right - sum(one <= queries for one in after.values())) for queries in {0, *after.values()}]
    curve = tuple(QueryPoint(queries=queries, accuracy=left / len(rows)) for queries, left in sorted(steps))
    return replace(result, samples=rows, query_curve=curve)


def queried(**changes) -> GateResult:
    """75 of 500 samples broken, within 5,000 queries each."""
    cost = Cost(seconds=300, forward=9000, queries=Queries(total=8000, max=5000, median=812.5))
    asks = threat(8, knowledge="scores", queries=5000, oracle="stored")
    return with_queries(gate(**{"id": "square", "attack": "square", "threat": asks, "cost": cost} | changes))


def top_two(**changes) -> GateResult:
    """175 of 500 samples broken, within 20,000 queries each, by an adversary who sees two scores."""
    asks = threat(8, knowledge="top-k", queries=20_000, oracle="float", top_k=2)
    return with_queries(failing(**{"id": "partial", "attack": "partial_information", "threat": asks} | changes))


SURROGATE = Surrogate(
    path="models/densenet.safetensors",
    format="safetensors",
    sha256="f6" * 32,
    accuracy=metric(440),
    agreement=metric(425),
    turned=metric(468, 480),
)
TRAINED = Surrogate(
    path="torchvision.models:resnet18",
    format="safetensors",
    sha256="a7" * 32,
    trained="10 epochs on the data's labels",
    accuracy=metric(350),
    agreement=metric(310),
    turned=metric(48, 480),
)


def transferred(**changes) -> GateResult:
    known = {"id": "transfer", "attack": "transfer", "threat": threat(8, knowledge="transfer")}
    return gate(**known | {"surrogates": (SURROGATE, TRAINED)} | changes)


def asking() -> AuditReport:
    """Adversaries without the candidate's weights."""
    return report(clean_gate(), queried(), top_two(), transferred(), verdict="fail")


def xray(index: int, side: int = 28, levels: int = 255, dtype=np.uint8) -> np.ndarray:
    """A picture that looks a little like a chest: (1, side, side)."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    body = np.clip(1.25 - (x**2 * 1.1 + y**2 * 0.7), 0, 1) * 0.75
    for center in (-0.42, 0.42):
        body -= 0.5 * np.exp(-((((x - center) / 0.27) ** 2 + ((y + 0.05) / 0.55) ** 2) ** 2))
    body += 0.16 * np.exp(-((x / 0.12) ** 2)) + 0.05 * np.sin(14 * y + 3 * np.abs(x)) * (np.abs(x) < 0.75)
    if index % 2:
        body += 0.35 * np.exp(-(((x - 0.35) / 0.2) ** 2 + ((y - 0.3) / 0.2) ** 2))
    body += rng.normal(0, 0.012, body.shape)
    return np.rint(np.clip(body, 0, 1) * levels).astype(dtype)[np.newaxis]


def perturbed(stored: np.ndarray, epsilon: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    change = epsilon * rng.choice([-1, 0, 1], size=stored.shape, p=[0.45, 0.1, 0.45])
    top = 255 if stored.dtype == np.uint8 else 4095
    return np.clip(stored.astype(np.int64) + change, 0, top).astype(stored.dtype)


def save(folder: Path, name: str, stored: np.ndarray) -> str:
    """Write a stored image (C, H, W) as the evaluation does; returns its digest."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, stored, allow_pickle=False)
    else:
        Image.fromarray(stored[0] if stored.shape[0] == 1 else np.moveaxis(stored, 0, -1)).save(path)
    return pixels_sha256(stored)


def with_pictures(result: GateResult, folder: Path, *, most: int = 6, side: int = 28) -> GateResult:
    """The gate with its first counterexamples and their clean images on disk, and their digests in its outcomes."""
    rows, written = [], 0
    for index, row in enumerate(result.samples):
        if row.status == "broken" and row.counterexample and written < most:
            clean = xray(index, side)
            attacked = perturbed(clean, result.threat.epsilon_levels, index)
            save(folder, f"counterexamples/clean/{Path(row.counterexample).name}", clean)
            row = replace(row, sha256=save(folder, row.counterexample, attacked))
            written += 1
        rows.append(row)
    return replace(result, samples=tuple(rows))
