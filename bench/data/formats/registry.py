"""Every data set that is read in its authors' layout, by the name that a grid says."""

from __future__ import annotations

from collections.abc import Mapping

from bench.data.formats.aircraft import AIRCRAFT
from bench.data.formats.caltech256 import CALTECH256
from bench.data.formats.contract import Format
from bench.data.formats.cub200 import CUB200
from bench.data.formats.flowers102 import FLOWERS102
from bench.data.formats.huggingface import HUGGINGFACE
from bench.data.formats.imagenet import IMAGENET
from bench.data.formats.indoor67 import INDOOR67
from bench.data.formats.moorea import MOOREA
from bench.data.formats.oulu_casia import OULU_CASIA
from bench.data.formats.places205 import PLACES205
from bench.data.formats.stanford40 import STANFORD40
from bench.data.formats.stanford_dogs import STANFORD_DOGS
from bench.data.formats.sun397 import SUN397
from bench.data.formats.vggface2 import VGGFACE2
from bench.data.formats.webdataset import WEBDATASET
from bench.data.formats.whoi_plankton import WHOI_PLANKTON

FORMATS: Mapping[str, Format] = {
    "imagenet": IMAGENET,
    "places-205": PLACES205,
    "caltech-256": CALTECH256,
    "sun-397": SUN397,
    "mit-indoor-67": INDOOR67,
    "cub-200-2011": CUB200,
    "stanford-dogs": STANFORD_DOGS,
    "stanford-40": STANFORD40,
    "fgvc-aircraft": AIRCRAFT,
    "flowers-102": FLOWERS102,
    "vggface2": VGGFACE2,
    "oulu-casia": OULU_CASIA,
    "moorea-corals": MOOREA,
    "whoi-plankton": WHOI_PLANKTON,
    "huggingface": HUGGINGFACE,
    "webdataset": WEBDATASET,
}
