"""Check that this network computes the same as the MXNet model: `python check.py`, with PyTorch installed."""

import sys
from pathlib import Path

TOLERANCE = 1e-4  # of the largest value; adding in another order changes about 1e-6


def main() -> int:
    """Run the network on the stored examples; return 0 if its outputs are those of MXNet, otherwise 1."""
    # The package holds this file without PyTorch and without a model beside it.
    import torch  # type: ignore[import-not-found]
    from model import load, read_tensors  # type: ignore[import-not-found]

    stored = read_tensors(Path(__file__).with_name("examples.safetensors"))
    inputs, expected = (
        [stored[name] for name in sorted(stored) if name.startswith(kind)] for kind in ("input", "output")
    )
    with torch.inference_mode():
        outputs = load()(*inputs)
    outputs = [outputs] if torch.is_tensor(outputs) else list(outputs)
    shapes = [[output.shape for output in all_] for all_ in (outputs, expected)]
    if shapes[0] != shapes[1]:
        print(f"WRONG: the outputs have the shapes {shapes[0]} instead of {shapes[1]}")
        return 1
    largest = max(
        float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))
        for ours, theirs in zip(outputs, expected)
    )
    same = float((outputs[0].argmax(1) == expected[0].argmax(1)).float().mean())
    right = largest <= TOLERANCE
    print(
        f"PyTorch {torch.__version__}: {len(inputs[0])} examples, largest difference from MXNet {largest:.1e} of the "
        f"largest value, the same top-1 for {same:.0%}: {'right' if right else 'WRONG'}"
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
