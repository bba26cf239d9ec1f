"""How much slower is a training step on a processor with fewer instructions?

Training steps of the book's networks take turns with oneDNN limited to AVX2, to AVX-512 (DNNL_MAX_CPU_ISA), and with
all of the processor's instructions; also in bfloat16 where it has instructions for it. Everything else stays the same,
so this measures the effect of the instructions, not another processor. Writes results/instruction_sets.json. About
three minutes on two cores.
"""

import argparse

from d2lcls.book import results
from d2lcls.machine.cores import cpu_flags

from rivals.turns import brief, ours, precisions, speed, take_turns

# Images per batch, pixels per side, classes.
NETWORKS = {"cnn": (128, 32, 10), "cifar_resnet20_v1": (128, 32, 10), "fast94": (512, 32, 10)}
SECONDS = 0.7  # of a turn, at least a step


def main():
    """Measure every network and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    found = {}
    for name, (batch, pixels, classes) in NETWORKS.items():
        words = ("step", name, batch, pixels, classes)
        turns, _ = take_turns(sides(words), SECONDS, options.rounds)
        speeds = {side: [speed(turn) for turn in seen] for side, seen in turns.items()}
        found[name] = {
            "images_per_second": {side: brief(values) for side, values in speeds.items()},
            "over_avx2": {
                side: brief([a / b for a, b in zip(values, speeds["avx2"])])
                for side, values in speeds.items()
                if side != "avx2"
            },
        }
        print(name, found[name], flush=True)
    print(
        results.write(
            "instruction_sets",
            "python benchmarks/instruction_sets.py",
            {
                "networks": found,
                "rounds": options.rounds,
                "units": {"images_per_second": "images/s, over rounds", "over_avx2": "images/s over avx2's, by round"},
            },
        )
    )


def sides(words):
    """Return the command of each side, those that this processor can run."""
    found = {"avx2": ["env", "DNNL_MAX_CPU_ISA=AVX2", *ours(*words, "float32")]}
    if "avx512f" in cpu_flags():
        found["avx512"] = ["env", "DNNL_MAX_CPU_ISA=AVX512_CORE", *ours(*words, "float32")]
    return {**found, **{precision: ours(*words, precision) for precision in precisions()}}


if __name__ == "__main__":
    main()
