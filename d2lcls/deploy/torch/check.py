"""Shows that this network computes what the MXNet model did: `python check.py`, with PyTorch installed."""

import sys
from pathlib import Path

TOLERANCE = 1e-4  # of the largest value; another order of adding up makes about 1e-6


def main():
    """Run the stored examples through the network; return 0 if it says what MXNet said, else 1."""
    import torch  # where this file lies in the package there is no PyTorch, and no model beside it
    from model import load, read_tensors

    stored = read_tensors(Path(__file__).with_name("examples.safetensors"))
    inputs, expected = (
        [stored[name] for name in sorted(stored) if name.startswith(kind)] for kind in ("input", "output")
    )
    with torch.inference_mode():
        outputs = load()(*inputs)
    outputs = [outputs] if torch.is_tensor(outputs) else list(outputs)
    shapes = [[one.shape for one in every] for every in (outputs, expected)]
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
