"""What an accelerator makes of all this: right, reproducible, and how fast; in eight minutes.

Command:   python experiments/accelerator.py [--minutes 8] [--data FOLDER] [--parts NAME ...]
           [--out FOLDER] [--tiny]
Hardware:  one GPU; --tiny tries everything at the smallest sizes on a CPU
Time:      --minutes at most, whatever happens; --tiny takes about two on two cores
Expected:  experiments/results/accelerator.json, written anew with every figure
Data:      CIFAR-10 prepared by TFDS in --data (by default TFDS's own folder), for the last part;
           without it that part is skipped
Packages:  what deqjax needs. Peers that do not import are left out, and so is a part that needs
           more than there is; "accuracy", "kernels" and "peers" do without Pydantic

Every part runs in a process of its own, which is killed when its share of the time is over: a part
that fails, hangs or is killed is recorded as that, with the figures that it had, and the others go
on. What a part leaves of its share is the next ones'.

accuracy        values and gradients of all solvers and rules against float64
resume          whether k + k training steps end in the same bits as 2k
resume, deterministic   the same under --xla_gpu_deterministic_ops
kernels         kernels of a solver's step in the compiled program
language        tokens a second of the WikiText-103 recipe, against Transformer-XL
images          images a second of MDEQ-tiny, against a ResNet
cifar10         half of the time: MDEQ-tiny trains on CIFAR-10
peers           solvers against those of other packages

The first four run beside each other: they do not look at the clock.
"""

import argparse
import contextlib
import datetime
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "benchmarks")]  # the parts import both by name

from accelerated.part import Findings, Options, write  # noqa: E402
from accelerated.running import Running, started, until_all_end  # noqa: E402

from children import FAST_COMPILER, SOURCE  # noqa: E402

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
LEAST = 15.0  # seconds below which no part is begun
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "deqjax", "jaxopt")
PEERS = ("optimistix", "lineax", "torch", "torchdeq", "banax")


class Part(NamedTuple):
    """A part of the measurement.

    Attributes:
        module: of `accelerated`.
        stage: parts of one stage run beside each other, the stages one after the other.
        share: of the whole time.
        flags: for XLA.
    """

    module: str
    stage: int
    share: float
    flags: str = ""


PARTS = {
    "accuracy": Part("accuracy", 0, 0.12),
    "resume": Part("resume", 0, 0.12),
    "resume, deterministic": Part("resume", 0, 0.12, DETERMINISTIC),
    "kernels": Part("kernels_per_step", 0, 0.12),
    "language": Part("language", 1, 0.22),
    "images": Part("images", 2, 0.08),
    "cifar10": Part("cifar10", 3, 0.5),
    "peers": Part("peers", 4, 0.08),
}


def prepared(data: str | None) -> bool:
    """Whether TFDS has prepared CIFAR-10 in a folder, or in its own."""
    usual = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return any(Path(data or usual).expanduser().glob("cifar10/*/dataset_info.json"))


def card() -> dict[str, str] | None:
    """What NVIDIA's driver says of the first card; None without one."""
    fields = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    values = said.stdout.splitlines()[0].split(",")
    return dict(zip(fields, map(str.strip, values), strict=True))


def run_part(name: str, file: Path, options: Options) -> int:
    """In a process of its own: measure a part, and tell into a file; its exit status."""
    findings = Findings(file)
    try:
        module = importlib.import_module(f"accelerated.{PARTS[name].module}")
        from timing import environment

        findings.tell("machine", environment((*PACKAGES, *PEERS)))
        module.measure(options, findings.tell)
    except ModuleNotFoundError as error:
        findings.tell("skipped", f"{error}; it is not installed, or not yet there")
        return 1
    except Exception as error:
        findings.tell("failed", f"{type(error).__name__}: {error}"[:1000])
        raise
    return 0


def run_stage(
    names: Sequence[str], until: float, folder: Path, asked: argparse.Namespace, record: Any
) -> None:
    """Run parts beside each other until all have ended or their time is over."""

    def note(name: str, part: Running) -> None:
        record["parts"][name] = part.entry
        if "machine" in part.told:
            machine = part.told["machine"]
            record.setdefault("machine", {name: machine[name] for name in ("device", "versions")})

    with contextlib.ExitStack() as stack:
        running = {}
        for name in names:
            place = folder / name.replace(", ", "-")
            place.mkdir()
            command = [sys.executable, str(Path(__file__).resolve()), "--part", name]
            command += ["--into", str(place / "found.json"), "--until", str(until)]
            command += ["--tiny"] if asked.tiny else []
            command += ["--data", asked.data] if asked.data else []
            known = mdeq_step(record)
            command += [] if known is None else ["--mdeq-step", str(known)]
            variables = environment_of(name, beside=len(names) > 1, tiny=asked.tiny)
            part = started(command, place / "found.json", until, variables)
            running[name] = stack.enter_context(part)
        until_all_end(running, note, lambda: write(asked.out / "accelerator.json", record))
    for name in names:
        print(f"{name}: {record['parts'][name]['outcome']}", flush=True)


def environment_of(name: str, *, beside: bool, tiny: bool) -> dict[str, str]:
    """Variables of a part's process."""
    flags = [os.environ.get("XLA_FLAGS", ""), PARTS[name].flags]
    flags += [FAST_COMPILER["XLA_FLAGS"]] if tiny else []
    return {
        "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")]),
        "XLA_FLAGS": " ".join(filter(None, flags)),
        # those that run beside each other share the memory
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false" if beside else "true",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",
    }


def mdeq_step(record: dict[str, Any]) -> float | None:
    """Seconds of a step of MDEQ-tiny, once they are known."""
    found = record["parts"].get("images", {}).get("figures", {}).get("MDEQ-tiny", {})
    return found.get("seconds of a step")


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Run all parts that were asked for, each stage with what is left for it."""
    began = time.monotonic()
    ends = began + 60 * asked.minutes
    record: dict[str, Any] = {
        "command": " ".join(["python", "experiments/accelerator.py", *asked.words]),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "minutes": asked.minutes,
        "tiny": asked.tiny,
        "card": card(),
        "parts": {},
    }
    chosen = [name for name in PARTS if name in asked.parts]
    if "cifar10" in chosen and not asked.tiny and not prepared(asked.data):
        reason = "CIFAR-10 is not prepared there; --data names the folder of prepared data sets"
        record["parts"]["cifar10"] = {"outcome": "skipped", "reason": reason}
        chosen.remove("cifar10")
    asked.out.mkdir(parents=True, exist_ok=True)
    write(asked.out / "accelerator.json", record)
    stages = sorted({PARTS[name].stage for name in chosen})
    shares = {
        stage: max(PARTS[name].share for name in chosen if PARTS[name].stage == stage)
        for stage in stages
    }
    with tempfile.TemporaryDirectory() as folder:
        for stage in stages:
            names = [name for name in chosen if PARTS[name].stage == stage]
            left = ends - time.monotonic()
            # what there is, in proportion to the shares; what was not used before counts in
            later = sum(share for number, share in shares.items() if number >= stage)
            seconds = left * shares[stage] / later
            if seconds < LEAST:
                reason = f"only {max(seconds, 0):.0f} s were left for it"
                for name in names:
                    record["parts"][name] = {"outcome": "skipped", "reason": reason}
                continue
            run_stage(names, time.monotonic() + seconds, Path(folder), asked, record)
    record["seconds"] = round(time.monotonic() - began, 1)
    write(asked.out / "accelerator.json", record)
    return record


def show(record: dict[str, Any]) -> None:
    """Print how every part came out."""
    for name, part in record["parts"].items():
        reason = f": {part['reason']}" if "reason" in part else ""
        print(f"{name:24} {part['outcome']} {part.get('seconds', '')}{reason}")
        for figure, value in part.get("figures", {}).items():
            text = json.dumps(value)
            print(f"    {figure}: {text if len(text) < 200 else text[:200] + ' ...'}")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write, print; or measure one part, as a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, help="for all parts together; 8, tiny 60")
    parser.add_argument("--data", help="folder of prepared data sets; default: TFDS's own")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, to try the script")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    # the clock is the system's: the same for a part's own process
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--mdeq-step", type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    if asked.part is not None:
        scratch = asked.into.with_name("scratch")
        scratch.mkdir()
        options = Options(scratch, asked.until, asked.tiny, asked.data, asked.mdeq_step)
        return run_part(asked.part, asked.into, options)
    if asked.minutes is None:
        asked.minutes = 60.0 if asked.tiny else 8.0
    asked.words = list(sys.argv[1:] if words is None else words)
    record = measure(asked)
    show(record)
    print(f"written: {asked.out / 'accelerator.json'}")
    return 0 if all(part["outcome"] == "finished" for part in record["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
