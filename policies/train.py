"""Train the candidates that the example policies gate: a standard model and a hardened one for each task.

The standard model learns from images as they are. The hardened one learns from images that PGD has attacked, afresh at
every step (Madry et al., arXiv 1706.06083). A gate that tells the two apart works; that is what they are for.
"""

import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import networks
import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.torch import save
from torch import Generator, Tensor, nn
from torch.nn import functional

MEAN, STD = 0.5, 0.25  # the policies' `preprocess`; it stays outside the network, where a policy can see it
BATCH = 128
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 5e-4
TRAINING_STEPS = 5  # of PGD on each batch, while training
RAMP = 0.6  # share of the epochs after which ε has its full size: with that from the start, nothing is learnt
EVALUATION_STEPS = 40
EVALUATION_LEVELS = (1, 2, 4, 8)  # ε in 255ths
AGREEMENT = 1e-4  # largest difference of a logit between the two files of a model
THREADS = 1  # sums of floats depend on how they are shared out: with one thread, not on the machine's cores


# Tasks


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images (N, 1, H, W) in [0, 1], and labels (N,): 0 healthy, 1 disease."""

    images: Tensor
    labels: Tensor

    def batches(self, size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.images.split(size), self.labels.split(size), strict=True)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learnt, from which images, by which network."""

    name: str
    network: Callable[[], nn.Module]
    train: Split
    val: Split
    test: Split
    augment: Callable[[Tensor, Generator], Tensor]
    level: int  # ε of the hardened model's training, in 255ths
    quiet: float  # share of the hardened model's epochs before ε begins to grow
    epochs: dict[str, int]  # by kind of model


def pneumonia(folder: Path) -> Task:
    """Chest X-rays, 28×28. Few of the training images are healthy ones, and they are not quite like the test images."""
    archive = np.load(folder / "pneumoniamnist.npz")
    names = ("train", "val", "test")
    return Task(
        name="pneumonia",
        network=networks.chest_cnn,
        augment=another_exposure,
        level=8,
        quiet=0,
        epochs={"standard": 20, "hardened": 30},
        **{name: split(archive[f"{name}_images"], archive[f"{name}_labels"][:, 0]) for name in names},
    )


def phantom(seed: int) -> Task:
    """Synthetic chest radiographs, 64×64, half with a nodule so small that it must be learnt before it is attacked."""
    from robustcheck.data.phantom import generate

    sizes = {"train": 16384, "val": 1024, "test": 1024}
    return Task(
        name="phantom",
        network=networks.phantom_cnn,
        augment=mirror,
        level=4,
        quiet=0.25,
        epochs={"standard": 12, "hardened": 16},
        **{name: split(*generate(count, split=name, seed=seed)) for name, count in sizes.items()},
    )


def split(images: np.ndarray, labels: np.ndarray) -> Split:
    """A split from stored 8-bit images (N, H, W) and labels (N,)."""
    return Split(images=torch.from_numpy(images).float().div(255).unsqueeze(1), labels=torch.from_numpy(labels).long())


def mirror(images: Tensor, generator: Generator) -> Tensor:
    """Half of the images, the other way round."""
    flipped = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(flipped, images.flip(3), images)


def another_exposure(images: Tensor, generator: Generator) -> Tensor:
    """The same patients on another day: turned, nearer, shifted, mirrored, and exposed differently."""

    def within(bound: float, *shape: int) -> Tensor:
        return (torch.rand(len(images), *shape, generator=generator) * 2 - 1) * bound

    angle, size, shift = within(0.2), 1 + within(0.15), within(0.12, 2)
    rows = [size * angle.cos(), -size * angle.sin(), shift[:, 0]], [size * angle.sin(), size * angle.cos(), shift[:, 1]]
    pose = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = functional.affine_grid(pose, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    contrast, brightness = 1 + within(0.3, 1, 1, 1), within(0.15, 1, 1, 1)
    return mirror(((moved - 0.5) * contrast + 0.5 + brightness).clamp(0, 1), generator)


# The attack


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    return network((images - MEAN) / STD)


def random_start(images: Tensor, epsilon: float, generator: Generator) -> Tensor:
    noise = torch.rand(images.shape, generator=generator) * 2 - 1
    return (images + epsilon * noise).clamp(0, 1)


def pgd_step(
    network: nn.Module, attacked: Tensor, images: Tensor, labels: Tensor, epsilon: float, steps: int
) -> tuple[Tensor, Tensor]:
    """One of `steps` steps of PGD, 2.5·ε/steps long: the images it leads to, and the logits of those it came from."""
    attacked = attacked.detach().requires_grad_()
    logits = logits_of(network, attacked)
    loss = functional.cross_entropy(logits, labels, reduction="sum")  # a sum, so that the batch's size changes nothing
    (gradient,) = torch.autograd.grad(loss, attacked)
    moved = attacked.detach() + 2.5 * epsilon / steps * gradient.sign()
    return moved.clamp(images - epsilon, images + epsilon).clamp(0, 1), logits.detach()


def attack(network: nn.Module, images: Tensor, labels: Tensor, epsilon: float, generator: Generator) -> Tensor:
    """The images after all steps of PGD, to be learnt from. Batch statistics are not touched: the network evaluates."""
    network.eval()
    attacked = random_start(images, epsilon, generator)
    for _ in range(TRAINING_STEPS):
        attacked, _ = pgd_step(network, attacked, images, labels, epsilon, TRAINING_STEPS)
    return attacked


# Training


def fit(task: Task, kind: str, epochs: int, seed: int) -> nn.Module:
    """Train for a fixed number of epochs; the last state is the result, so no split is asked which state is best."""
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    network = task.network().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    batches = len(task.train.labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=epochs * batches)
    started = time.perf_counter()
    for epoch in range(1, epochs + 1):
        epsilon = task.level / 255 * strength(epoch, epochs, task.quiet) if kind == "hardened" else 0.0
        total = 0.0
        for chosen in balanced(task.train.labels, batches, generator):
            images, labels = task.augment(task.train.images[chosen], generator), task.train.labels[chosen]
            if epsilon:
                images = attack(network, images, labels, epsilon, generator)
            network.train()
            loss = functional.cross_entropy(logits_of(network, images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        network.eval()
        accuracy = (answers(network, task.val) == task.val.labels).float().mean()
        click.echo(
            f"{task.name} {kind}: epoch {epoch}/{epochs}, loss {total / batches:.3f}, "
            f"val accuracy {accuracy:.3f}, {time.perf_counter() - started:.0f} s"
        )
    centre(network, task.val)
    return network


def strength(epoch: int, epochs: int, quiet: float) -> float:
    """The share of the full ε in this epoch (from 1): none in the quiet ones, then growing until RAMP."""
    return min(1, max(0, epoch - quiet * epochs) / (epochs * RAMP - quiet * epochs))


def balanced(labels: Tensor, batches: int, generator: Generator) -> Iterator[Tensor]:
    """Indices of an epoch's batches, either label as likely: of the X-rays, nine in ten are disease."""
    weights = 1 / torch.bincount(labels).float()
    return iter(torch.multinomial(weights[labels], batches * BATCH, replacement=True, generator=generator).split(BATCH))


def centre(network: nn.Module, val: Split) -> None:
    """Shift the head's bias to where sensitivity and specificity are nearest to each other on the validation split.

    Training on even odds leaves the decision anywhere between the labels; a policy's operating point of 0.5 should
    favour neither.
    """
    logits = logits_on(network, val)
    margin = logits[:, 1] - logits[:, 0]
    sick, healthy = margin[val.labels == 1], margin[val.labels == 0]
    edges = margin.sort().values
    places = (edges[1:] + edges[:-1]) / 2
    gaps = [abs((sick > place).float().mean() - (healthy <= place).float().mean()) for place in places]
    with torch.no_grad():
        network.head.bias[1] -= places[int(torch.stack(gaps).argmin())]


# Evaluation


@torch.no_grad()
def logits_on(network: nn.Module, data: Split) -> Tensor:
    return torch.cat([logits_of(network, images) for images, _ in data.batches()])


def answers(network: nn.Module, data: Split) -> Tensor:
    return logits_on(network, data).argmax(dim=1)


def robust_accuracy(network: nn.Module, data: Split, epsilon: float, seed: int) -> float:
    """The share of images that are answered right and stay so, at the start and after each step of one run of PGD."""
    generator, held = Generator().manual_seed(seed), 0
    right = answers(network, data) == data.labels
    for images, labels in Split(images=data.images[right], labels=data.labels[right]).batches():
        attacked = random_start(images, epsilon, generator)
        for _ in range(EVALUATION_STEPS):
            attacked, logits = pgd_step(network, attacked, images, labels, epsilon, EVALUATION_STEPS)
            standing = logits.argmax(dim=1) == labels
            attacked, images, labels = attacked[standing], images[standing], labels[standing]
        held += int((logits_of(network, attacked).argmax(dim=1) == labels).sum())
    return held / len(data.labels)


def table(task: Task, trained: dict[str, nn.Module], seed: int) -> str:
    """Accuracy of each model on both held-out splits, as Markdown."""
    levels = [f"PGD-{EVALUATION_STEPS} {level}/255" for level in EVALUATION_LEVELS]
    rows = [["model", "split", "clean", "sensitivity", "specificity", *levels]]
    for kind, network in trained.items():
        for name, data in (("val", task.val), ("test", task.test)):
            right = (answers(network, data) == data.labels).float()
            clean = [right.mean(), right[data.labels == 1].mean(), right[data.labels == 0].mean()]
            attacked = [robust_accuracy(network, data, level / 255, seed) for level in EVALUATION_LEVELS]
            rows.append([f"{task.name}_{kind}", name, *(f"{share:.3f}" for share in [*clean, *attacked])])
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# Files


def write(network: nn.Module, stem: Path, test: Split) -> list[Path]:
    """Write the weights and the ONNX export, if both answer alike; a run that is cut short leaves the old files."""
    targets = [stem.with_suffix(".safetensors"), stem.with_suffix(".onnx")]
    stem.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=stem.parent) as folder:
        drafts = [Path(folder) / target.name for target in targets]
        drafts[0].write_bytes(save({name: value.contiguous() for name, value in network.state_dict().items()}))
        export(network, tuple(test.images.shape[1:]), drafts[1])
        difference = disagreement(network, drafts[1], test)
        if difference > AGREEMENT:
            raise click.ClickException(
                f"{stem.name}: the ONNX export's logits are off by up to {difference:.1e}; not written"
            )
        for draft, target in zip(drafts, targets, strict=True):
            draft.replace(target)
    click.echo(f"{stem.name}: PyTorch and ONNX Runtime agree to {difference:.1e}")
    return targets


def export(network: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Export to ONNX: any number of images, all weights in the one file, no trace of the machine it was made on."""
    program = torch.onnx.export(
        network,
        (torch.zeros(2, *shape),),
        dynamo=True,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        part.ClearField("metadata_props")  # holds stack traces, with paths
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def disagreement(network: nn.Module, path: Path, data: Split) -> float:
    """The largest difference of a logit between PyTorch and ONNX Runtime, on batches of several sizes."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pieces = (data.images[:1], data.images[1:8], data.images[8:])
    found = [
        torch.from_numpy(session.run(["logits"], {"image": ((piece - MEAN) / STD).numpy()})[0]) for piece in pieces
    ]
    worst = (torch.cat(found) - logits_on(network, data)).abs().max().item()
    return math.inf if math.isnan(worst) else worst


# Commands


def make(task: Task, seed: int, epochs: int | None, only: str | None, output: Path) -> None:
    torch.set_num_threads(THREADS)
    trained: dict[str, nn.Module] = {}
    for kind in [only] if only else ["standard", "hardened"]:
        trained[kind] = fit(task, kind, epochs or task.epochs[kind], seed)
        for path in write(trained[kind], output / f"{task.name}_{kind}", task.test):
            click.echo(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}  {path.stat().st_size} bytes")
    parameters = sum(parameter.numel() for parameter in task.network().parameters())
    click.echo(f"\n{parameters} parameters, seed {seed}, torch {torch.__version__}\n\n{table(task, trained, seed)}")


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option("--seed", default=0, show_default=True, help="Of the first weights, the order, and every attack."),
        click.option(
            "--epochs", type=click.IntRange(1), help="Passes over the training images, in place of the task's."
        ),
        click.option("--only", type=click.Choice(["standard", "hardened"]), help="Train this one alone."),
        click.option(
            "--output",
            type=click.Path(file_okay=False, path_type=Path),
            default=Path(__file__).parent / "candidates",
            help="Folder that receives the models.  [default: candidates, beside this script]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command("pneumonia")
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that holds pneumoniamnist.npz, e.g. ../shared/data.",
)
@shared_options
def pneumonia_command(data: Path, seed: int, epochs: int | None, only: str | None, output: Path) -> None:
    """Pneumonia on chest X-rays of 28×28 pixels (PneumoniaMNIST)."""
    make(pneumonia(data), seed, epochs, only, output)


@main.command("phantom")
@shared_options
def phantom_command(seed: int, epochs: int | None, only: str | None, output: Path) -> None:
    """Nodules on synthetic radiographs of 64×64 pixels, which robustcheck draws itself: nothing to download."""
    make(phantom(seed), seed, epochs, only, output)


if __name__ == "__main__":
    main()
