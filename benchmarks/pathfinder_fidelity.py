"""How close the generated Pathfinder32 pictures are to those of the original generator.

    python benchmarks/pathfinder_fidelity.py DATA_ROOT/lra_release/lra_release/pathfinder32

compares, for each level, statistics of every picture between the release and as many generated
ones, and the score that a small CNN trained on generated pictures reaches on either. Prints a
table, and writes everything to ``--output`` as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage, stats
from torch import Tensor, nn

from sbmgraph.data.pathfinder import LEVELS, generate, read_release
from sbmgraph.files import write_atomically

Pictures = tuple[np.ndarray, np.ndarray]


def gather(chunks) -> Pictures:
    images, labels = zip(*chunks, strict=True)
    return np.concatenate(images).reshape(-1, 32, 32), np.concatenate(labels)


def statistics(images: np.ndarray) -> dict[str, np.ndarray]:
    """One number a picture for each statistic."""
    flat = images.reshape(len(images), -1)
    neighbours = np.ones((3, 3))
    return {
        "mean grey level": flat.mean(axis=1),
        "deviation of grey levels": flat.std(axis=1),
        "black pixels, share": (flat == 0).mean(axis=1),
        "pixels above 60 (length of the curves)": (flat > 60).sum(axis=1),
        "pixels above 180": (flat > 180).sum(axis=1),
        "separate dashes": np.array([ndimage.label(p > 60, neighbours)[1] for p in images]),
    }


def compare(original: Pictures, ours: Pictures) -> dict[str, dict[str, float]]:
    rows = {}
    theirs_by_name, ours_by_name = statistics(original[0]), statistics(ours[0])
    for name, theirs in theirs_by_name.items():
        mine = ours_by_name[name]
        rows[name] = {
            "original": float(theirs.mean()),
            "generated": float(mine.mean()),
            "original_std": float(theirs.std()),
            "generated_std": float(mine.std()),
            "ks": float(stats.ks_2samp(theirs, mine).statistic),
        }
    rows["label 1, share"] = {
        "original": float(original[1].mean()),
        "generated": float(ours[1].mean()),
        "original_std": float(original[1].std()),
        "generated_std": float(ours[1].std()),
        "ks": float(abs(original[1].mean() - ours[1].mean())),
    }
    return rows


class CNN(nn.Sequential):
    """Eight 3 x 3 convolutions, from 16 x 16 pixels to 4 x 4, then the largest of each channel."""

    def __init__(self, channels: int) -> None:
        widths = [1, *(channels * k for k in (1, 1, 1, 2, 2, 2, 4, 4))]
        strides = [2, 1, 1, 2, 1, 1, 2, 1]
        layers: list[nn.Module] = []
        for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 2))


def tensors(pictures: Pictures) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(pictures[0]).float().div(64).unsqueeze(1)
    return images, torch.from_numpy(pictures[1])


def train(pictures: Pictures, args: argparse.Namespace, device: torch.device) -> CNN:
    torch.manual_seed(args.seed)
    x, y = (t.to(device) for t in tensors(pictures))
    model = CNN(args.channels).to(device)
    steps = args.epochs * (len(y) // args.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps)
    step = 0
    for epoch in range(args.epochs):
        order = torch.randperm(len(y), device=device)
        losses = []
        for rows in order[: len(y) // args.batch_size * args.batch_size].split(args.batch_size):
            batch = x[rows]
            # Turning and mirroring a picture leaves its label as it is.
            if step % 2:
                batch = batch.flip(-1)
            if step % 4 > 1:
                batch = batch.transpose(-1, -2)
            loss = F.cross_entropy(model(batch), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
            step += 1
        print(f"  epoch {epoch + 1}: loss {torch.stack(losses).mean():.4f}", flush=True)
    return model


@torch.no_grad()
def accuracy(model: CNN, pictures: Pictures, device: torch.device) -> tuple[float, float]:
    """Accuracy and its standard error."""
    model.eval()
    x, y = tensors(pictures)
    hits = [model(xs.to(device)).argmax(1).cpu() == ys for xs, ys in zip(
        x.split(500), y.split(500), strict=True)]  # fmt: skip
    score = torch.cat(hits).float().mean().item()
    return score, (score * (1 - score) / len(y)) ** 0.5


def run_level(level: str, args: argparse.Namespace) -> dict:
    original = gather(read_release(args.release / LEVELS[level][0]))
    start = time.perf_counter()
    held_out = gather(generate(max(args.images // 10, 4000), level=level, seed=args.seed + 1))
    speed = len(held_out[1]) / (time.perf_counter() - start)
    result = {
        "original_pictures": len(original[1]),
        "generated_pictures": len(held_out[1]),
        "pictures_per_second": speed,
        "statistics": compare(original, held_out),
    }
    print(f"\n{level}: {len(original[1])} original, {len(held_out[1])} generated ({speed:.0f}/s)")
    for name, row in result["statistics"].items():
        print(
            f"  {name:40s} original {row['original']:8.3f}   generated {row['generated']:8.3f}"
            f"   KS {row['ks']:.3f}"
        )
    if args.epochs:
        device = torch.device(args.device)
        pictures = gather(generate(args.images, level=level, seed=args.seed))
        start = time.perf_counter()
        model = train(pictures, args, device)
        on_ours, on_originals = (accuracy(model, p, device) for p in (held_out, original))
        result["cnn"] = {
            "training_pictures": len(pictures[1]),
            "seconds": time.perf_counter() - start,
            "accuracy_generated": on_ours,
            "accuracy_original": on_originals,
        }
        print(
            f"  CNN trained on {len(pictures[1])} generated: {100 * on_ours[0]:.2f} % on generated "
            f"(± {100 * on_ours[1]:.2f}), {100 * on_originals[0]:.2f} % on original "
            f"(± {100 * on_originals[1]:.2f})"
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("release", type=Path, help="folder pathfinder32 of LRA's release")
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=["hard"])
    parser.add_argument("--images", type=int, default=40_000, help="generated to train on")
    parser.add_argument("--epochs", type=int, default=8, help="0 leaves the CNN out")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("pathfinder_fidelity.json"))
    args = parser.parse_args()
    if not args.release.is_dir():
        parser.error(f"release: expected a folder, got {args.release}")
    results = {}
    for level in args.levels:
        results[level] = run_level(level, args)
        write_atomically(args.output, json.dumps(results, indent=2) + "\n")
    print(f"\nwritten to {args.output}")


if __name__ == "__main__":
    main()
