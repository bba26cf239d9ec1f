import json
import subprocess
import sys

from d2lcls.data import Batches
from d2lcls.models import SmallCNN
from d2lcls.training import fit

# In a process of its own: mxboard and tensorboard register protobuf messages under the same names.
READ = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1]).Reload()
print(json.dumps({tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))
"""


def test_tensorboard_reads_back_what_fit_returned(shapes, tmp_path):
    net = SmallCNN(3, widths=(8,))
    net.initialize()
    records = fit(net, Batches(shapes), Batches(shapes), num_epochs=3, lr=0.01, tensorboard=tmp_path, verbose=False)
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", READ, tmp_path], capture_output=True, check=True)
    curves = json.loads(out.stdout)
    assert set(curves) == {"loss/train", "loss/valid", "accuracy/train", "accuracy/valid", "lr", "images_per_second"}
    assert [step for step, _ in curves["accuracy/valid"]] == [1, 2, 3]
    for tag, name in (("accuracy/valid", "valid_accuracy"), ("loss/train", "train_loss"), ("lr", "lr")):
        assert [round(value, 5) for _, value in curves[tag]] == [round(getattr(r, name), 5) for r in records]
