"""Images and labels in, in their pixel space.

`load_samples` turns what a policy's `data` section says into `Samples` (`samples`): stored integers, never scaled, each
with a name that every random draw about it derives from. One file per source (`archive`, `medmnist_archive`, `folder`,
`manifest`, `user_callable`, `phantom`) lists what it holds, with `splits` as people call them, and no file `escapes`
its folder; `load` takes the `subset` and describes it for the report. `arrays` and `files` are the two ways in which
images are kept: files are `pictures` or `dicom`, whose compressed images say in their `codestream` how large they are,
and how much `decoding_work` they make; `spaces` is the one that all of them share, and `used_range` how much of it is
used. `label_names` and `multilabel` read one label per image or several, `columns` what else is said about it; `areas`
are parts of images that must not, or may only, be covered. A source's mistakes end in a `DataError` sentence: what
readers share for that is in `reading`, and many files' mistakes are told together in `grouped_faults`,
those of many lines in `mistakes`.
"""

from robustcheck.data.areas import Area, load_area
from robustcheck.data.load import load_samples
from robustcheck.data.samples import Samples
from robustcheck.data.subset import in_random_order

__all__ = ["Area", "Samples", "in_random_order", "load_area", "load_samples"]
