"""Images, labels and batches: everything between a file on disk and a network's input."""

from d2lcls.data.augment import STANDARD, colour_jitter, cutout, flip, mixup, pad_crop
from d2lcls.data.catalog import DATASETS
from d2lcls.data.datasets import Images, channel_statistics, is_sample, load, split_validation
from d2lcls.data.fetch import DataUnavailable, fetch, home, verify
from d2lcls.data.folders import list_folder, load_folder
from d2lcls.data.images import BrokenImage, open_image, read_image
from d2lcls.data.loader import Batches
from d2lcls.data.records import read_records, write_records

__all__ = [
    "BrokenImage", "Batches", "DATASETS", "DataUnavailable", "Images", "STANDARD",
    "channel_statistics", "colour_jitter", "cutout", "fetch", "flip", "home", "is_sample", "list_folder", "load",
    "load_folder", "mixup", "open_image", "pad_crop", "read_image", "read_records", "split_validation",
    "verify", "write_records",
]
