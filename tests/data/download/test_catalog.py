"""The catalog agrees with itself and with the data set classes of MXNet."""

import importlib.util
from pathlib import Path

from d2lcls.data.download.catalog import DATASETS, find

import pytest


def test_the_names_are_the_keys():
    assert sorted(DATASETS) == ["cifar10", "fashion_mnist", "grocery"]
    assert all(find(name).name == name for name in DATASETS)


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_the_files_have_room_for_exactly_the_images_of_their_split(name):
    dataset = DATASETS[name]
    height, width, channels = dataset.image_shape
    for split, number in dataset.splits.items():
        found = sum(file.size for file in dataset.files if file.split == split)
        if dataset.layout == "cifar":
            assert found == number * (1 + height * width * channels)
        else:  # 16 bytes of header before the images, 8 before the labels
            assert found == 16 + number * height * width * channels + 8 + number
    assert len(set(dataset.classes)) == 10


@pytest.mark.parametrize("name", DATASETS)
def test_entries_are_complete(name):
    dataset = DATASETS[name]
    assert dataset.licence and dataset.citation
    assert dataset.space > sum(file.size for file in dataset.files)
    assert all(len(file.sha1) == 40 for file in dataset.files)
    for source in dataset.sources:
        assert (source.kind == "web") == bool(source.host) == (not source.package)
        for item in source.downloads:  # without a checksum, the address says which version it is
            assert len(item.checksum) in (40, 64) if item.checksum else dataset.revision in item.address


def test_cifar10_has_the_checksums_that_mxnet_checks():
    package = importlib.util.find_spec("mxnet").submodule_search_locations[0]
    text = (Path(package) / "gluon/data/vision/datasets.py").read_text()
    for file in DATASETS["cifar10"].files:
        assert f"('{file.name}', '{file.sha1}')" in text
    mxnet_host = next(s for s in DATASETS["cifar10"].sources if s.title == "MXNet data host")
    assert f"'{mxnet_host.downloads[0].checksum}'" in text


def test_hosts_are_named_where_a_web_server_is_asked():
    assert [source.host for source in DATASETS["cifar10"].sources] == [
        "www.cs.toronto.edu",
        "apache-mxnet.s3-accelerate.dualstack.amazonaws.com",
        None,
    ]


@pytest.mark.parametrize(
    "wrong, near", [("cifar-10", "cifar10"), ("CIFAR10", "cifar10"), ("fashionmnist", "fashion_mnist")]
)
def test_an_unknown_name_gets_the_nearest_one_suggested(wrong, near):
    with pytest.raises(ValueError, match=f"{wrong}.*Did you mean '{near}'.*Known are: cifar10, fashion"):
        find(wrong)


def test_a_name_like_no_other_gets_the_list_only():
    with pytest.raises(ValueError, match=r"'imagenet'\. Known are: cifar10, fashion_mnist, grocery\."):
        find("imagenet")
