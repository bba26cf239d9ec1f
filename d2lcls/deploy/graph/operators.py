"""MXNet's operators since 2015: new names, replacements for deprecated ones, and attributes in old forms."""

import re
from collections.abc import Mapping

# Operators that MXNet 1.9 has under another name only; it resolves its own aliases (`_Plus`, `ElementWiseSum`) itself.
RENAMED = {
    "CuDNNBatchNorm": "BatchNorm",
    "Convolution_v1": "Convolution",
    "Pooling_v1": "Pooling",
    "BatchNorm_v1": "BatchNorm",
    "SoftmaxOutput_v1": "SoftmaxOutput",
    "_crop": "slice",
    "_smooth_l1": "smooth_l1",
    "element_0index": "choose_element_0index",
}
# Operators that began in a fork or in examples, and are now called `_contrib_NAME`.
CONTRIBUTED = (
    "MultiBoxPrior",
    "MultiBoxTarget",
    "MultiBoxDetection",
    "Proposal",
    "MultiProposal",
    "PSROIPooling",
    "DeformableConvolution",
    "DeformablePSROIPooling",
    "AdaptiveAvgPooling2D",
    "BilinearResize2D",
    "SyncBatchNorm",
    "ROIAlign",
    "box_nms",
    "CTCLoss",
)
RENAMED.update({name: f"_contrib_{name}" for name in CONTRIBUTED})

# Deprecated operators, and what to use today.
DEPRECATED = {
    "SoftmaxActivation": "softmax",
    "Softmax": "SoftmaxOutput",
    "Convolution_v1": "Convolution",
    "Pooling_v1": "Pooling",
    "BatchNorm_v1": "BatchNorm",
    "CuDNNBatchNorm": "BatchNorm",
    "Crop": "slice_like or slice_axis",
    "_crop": "slice",
    "crop": "slice",
    "MakeLoss": "make_loss",
    "choose_element_0index": "pick",
    "ElementWiseSum": "add_n",
    "SwapAxis": "swapaxes or transpose",
    "BlockGrad": "stop_gradient",
    "SliceChannel": "split",
    "SVMOutput": "a loss of Gluon",
    "SoftmaxOutput": "softmax, and SoftmaxCrossEntropyLoss to train",
    "LinearRegressionOutput": "the network's output, and L2Loss to train",
    "MAERegressionOutput": "the network's output, and L1Loss to train",
    "LogisticRegressionOutput": "sigmoid, and SigmoidBinaryCrossEntropyLoss to train",
    "_Plus": "elemwise_add",
    "_Minus": "elemwise_sub",
    "_Mul": "elemwise_mul",
    "_Div": "elemwise_div",
    "broadcast_plus": "broadcast_add",
    "broadcast_minus": "broadcast_sub",
    "_Native": "CustomOp",
    "_NDArray": "CustomOp",
    "sum_axis": "sum",
    "max_axis": "max",
    "min_axis": "min",
}
# Which input of a loss is the label, which a network that only predicts does not need.
LABEL_SLOT = {
    "SoftmaxOutput": 1,
    "Softmax": 1,
    "LinearRegressionOutput": 1,
    "MAERegressionOutput": 1,
    "LogisticRegressionOutput": 1,
    "SVMOutput": 1,
}
# Operators with learned parameters, and the first of their inputs that is one.
LEARNED = {
    "Convolution": 1,
    "Deconvolution": 1,
    "FullyConnected": 1,
    "BatchNorm": 1,
    "LeakyReLU": 1,
    "InstanceNorm": 1,
    "LayerNorm": 1,
    "GroupNorm": 1,
    "Embedding": 1,
    "_contrib_SyncBatchNorm": 1,
    "_contrib_DeformableConvolution": 2,
}

BOOLEANS = (
    "no_bias",
    "flatten",
    "global_pool",
    "fix_gamma",
    "use_global_stats",
    "output_mean_var",
    "multi_output",
    "preserve_shape",
    "center_crop",
    "count_include_pad",
    "keepdims",
    "squeeze_axis",
    "reverse",
    "exclude",
    "is_ascend",
    "cudnn_off",
    "out_grad",
    "use_ignore",
    "keep_highest",
    "transpose_a",
    "transpose_b",
    "clip",
)
_TUPLE = re.compile(r"[(\[](-?[0-9]{1,19}L?(,-?[0-9]{1,19}L?)*,?)?[)\]]")  # without blanks
_WHOLE = re.compile(r"-?[0-9]{1,19}L?")


def upgrade_attributes(op: str, attributes: Mapping[str, str]) -> dict[str, str]:
    """Bring an operator's attributes into the form that MXNet 1.9 itself writes.

    Returns:
        the attributes, with "True" and "False", tuples as "(1, 2)", and `shape` instead of `target_shape`.
    """
    upgraded = {key: _canonical(key, value) for key, value in attributes.items()}
    if op in ("Reshape", "reshape") and "target_shape" in upgraded:
        shape = whole_numbers(upgraded.pop("target_shape"))
        highest = upgraded.pop("keep_highest", "False") == "True"
        if "shape" not in upgraded:  # 0 stood for the size to be inferred, which is -1 now
            sizes = [-1 if size == 0 else size for size in shape]
            upgraded["shape"] = str(tuple([0, *sizes[1:]] if highest else sizes))
    return upgraded


def whole_numbers(text: str) -> list[int]:
    """Return the whole numbers in a text such as "3" or "(1, 2)"; an empty list for any other text."""
    text = text.replace(" ", "")
    if _TUPLE.fullmatch(text) or _WHOLE.fullmatch(text):
        return [int(number) for number in re.findall(r"-?[0-9]+", text)]
    return []


def is_true(attributes: Mapping[str, str], key: str, default: bool = False) -> bool:
    """Return a truth value among upgraded attributes."""
    return attributes.get(key, str(default)) == "True"


def _canonical(key: str, value: str) -> str:
    if key.startswith("__"):
        return value
    if value.lower() in ("true", "false"):
        return value.capitalize()
    if key in BOOLEANS and value in ("0", "1"):
        return str(value == "1")
    if _TUPLE.fullmatch(value.replace(" ", "")):
        return str(tuple(whole_numbers(value))) if value[0] == "(" or key != "ratios" else value
    return value
