"""Write small files in PyTorch's own formats, for test_tensors.py to read without PyTorch.

Run by hand in an environment with torch: `python tests/weights/reference/make_torch_files.py`. Each is written in the
format of today (`zip`) and of before PyTorch 1.6 (`legacy`); torch_expected.npz holds what they contain.
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


def main():
    import torch

    rng = torch.Generator().manual_seed(0)
    plain = torch.randn(3, 4, generator=rng)
    state = {
        "float32": plain,
        "float64": plain.double() / 3,
        "float16": plain.half(),
        "bfloat16": plain.bfloat16(),
        "bfloat16.scalar": plain[0, 0].bfloat16(),
        "bfloat16.turned": plain.bfloat16().t(),
        "int64": torch.tensor([-(2**62), 0, 2**62]),
        "int32": torch.tensor([-7, 7], dtype=torch.int32),
        "int8": torch.tensor([-128, 127], dtype=torch.int8),
        "uint8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([[True, False], [False, False]]),
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "turned": plain.t(),
        "every.second": plain[:, ::2],
        "part": plain[1:, 1:3],
        "spread": torch.ones(1, 3).expand(1, 3),
        "parameter": torch.nn.Parameter(plain[0].clone()),
    }
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    shared = {"encoder.weight": plain, "decoder.weight": plain}
    files = {
        "tensors": state,
        "module": net.state_dict(),
        "shared": {
            "state_dict": OrderedDict(shared),
            "epoch": 7,
            "arch": "net",
            "best": 0.5,
            "none": None,
            "args": {"lr": [0.1, 0.2], "flag": True, "shape": (1, 2)},
        },
    }
    expected = {}
    for name, content in files.items():
        for form, zipped in (("zip", True), ("legacy", False)):
            torch.save(content, FOLDER / f"torch_{name}.{form}.pth", _use_new_zipfile_serialization=zipped)
        for key, value in content.get("state_dict", content).items():
            value = value.detach()
            expected[f"{name}/{key}"] = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    np.savez_compressed(FOLDER / "torch_expected.npz", **expected)


if __name__ == "__main__":
    main()
