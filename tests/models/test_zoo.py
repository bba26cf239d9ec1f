from d2lcls.models import SmallCNN, get_model, list_models

import pytest
from mxnet import nd


def test_names_are_sorted_and_match_a_pattern():
    names = list_models()
    assert names == sorted(set(names)) and len(names) > 100
    assert {"cnn", "cifar_resnet20_v1", "resnet18_v1b", "mobilenetv2_0.25", "darknet53"} <= set(names)
    assert list_models("cifar_resnet20*") == ["cifar_resnet20_v1", "cifar_resnet20_v2"]
    assert list_models("nothing*") == []


@pytest.mark.parametrize(
    "name",
    [
        "ssd_512_vgg16_atrous_voc",
        "faster_rcnn_resnet50_v1b_voc",
        "fcn_resnet50_voc",
        "i3d_resnet50_v1_kinetics400",
        "hrnet_w18_c",
        "resnet50_v1d_0.48",
        "resnet50_v1_int8",
    ],
)
def test_what_classifies_no_images_into_any_number_of_classes_is_not_offered(name):
    assert name not in list_models()
    with pytest.raises(ValueError, match=f"No image classifier is called '{name}'"):
        get_model(name)


def test_our_own_network():
    net = get_model("cnn", classes=4, widths=(3, 5))
    assert isinstance(net, SmallCNN)
    net.initialize()
    assert net(nd.zeros((1, 1, 4, 4))).shape == (1, 4)
    assert isinstance(get_model("CNN"), SmallCNN)


@pytest.mark.parametrize("name, side", [("cifar_resnet20_v1", 32), ("resnet18_v1b", 32), ("mobilenetv2_0.25", 32)])
def test_gluoncvs_networks_take_any_number_of_classes(name, side):
    net = get_model(name, classes=7)
    net.initialize()
    assert net(nd.zeros((1, 3, side, side))).shape == (1, 7)


def test_every_name_makes_a_network():
    """One of each family; all 114 take nine seconds."""
    for name in (
        "alexnet",
        "cifar_resnext29_32x4d",
        "densenet121",
        "dla34",
        "googlenet",
        "mobilenetv3_small",
        "resnest14",
        "se_resnet18_v1",
        "shufflenet_v1",
        "squeezenet1.1",
        "vgg11",
        "xception",
    ):
        assert name in list_models()
        shapes = [p.shape for p in get_model(name, classes=7).collect_params().values() if p.shape]
        assert any(shape[0] == 7 for shape in shapes), name


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("cifar_resnet20", "cifar_resnet20_v1"),
        ("resnet18v1", "resnet18_v1"),
        ("cnnn", "cnn"),
        ("MobileNetV2", "mobilenetv2_"),
    ],
)
def test_unknown_names_get_the_nearest_suggested(name, nearest):
    with pytest.raises(
        ValueError,
        match=rf"No image classifier is called '{name.lower()}'\. Did you mean .*{nearest}"
        r".*list_models\(\) lists all",
    ):
        get_model(name)


def test_names_like_no_other_get_the_listing():
    with pytest.raises(ValueError, match=r"called '%%%%'\. d2lcls\.models\.list_models\(\) lists all \d+\."):
        get_model("%%%%")
