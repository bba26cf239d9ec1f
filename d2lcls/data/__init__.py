"""Images, labels and batches: everything between a file on disk and a network's input."""

from d2lcls.data.augment import STANDARD, colour_jitter, cutout, flip, mixup, pad_crop, reflect_crop
from d2lcls.data.catalog import DATASETS
from d2lcls.data.datasets import Images, channel_statistics, is_sample, load, split_validation
from d2lcls.data.fetch import DataUnavailable, fetch, home, verify
from d2lcls.data.folders import list_folder, load_folder, open_folder
from d2lcls.data.images import BrokenImage, open_image, read_image
from d2lcls.data.imagenet import imagenet_classes, open_imagenet
from d2lcls.data.imbalance import class_weights, long_tailed, take_evenly, take_per_class
from d2lcls.data.lazy import LazyImages
from d2lcls.data.loader import Batches
from d2lcls.data.preprocess import Preprocess
from d2lcls.data.randaugment import randaugment
from d2lcls.data.records import open_records, read_records, write_records

__all__ = [
    "Batches", "BrokenImage", "DATASETS", "DataUnavailable", "Images", "LazyImages", "Preprocess", "STANDARD",
    "channel_statistics", "class_weights", "colour_jitter", "cutout", "fetch", "flip", "home",
    "imagenet_classes", "is_sample", "list_folder", "load", "load_folder", "long_tailed", "mixup", "open_folder",
    "open_image", "open_imagenet", "open_records", "pad_crop", "randaugment", "read_image", "read_records",
    "reflect_crop", "split_validation", "take_evenly", "take_per_class", "verify", "write_records",
]
